//! gRPC over HTTP/2 without a stack of layers: one message in, one message or many out (SPEC: gRPC over HTTP/2,
//! *Requests*, *Responses*). A call of the Workload API costs less than what the general stack adds to it.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use hyper::body::Frame;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataValue;

/// A flag octet, and the length of the message in four.
const PREFIX: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: &str = "grpc-encoding";
const STATUS: &str = "grpc-status";
const OK: HeaderValue = HeaderValue::from_static("0");

/// The one message of a request, which has at most `most` bytes.
///
/// # Errors
/// A status for the caller: `OutOfRange` for a longer message, `Unimplemented` for a compressed one or for a second one,
/// `Internal` for none and for what is no message of this type; that of the body where it fails.
pub(in crate::endpoints) async fn message<M, B>(request: Request<B>, most: usize) -> Result<M, Status>
where
    M: Message + Default,
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    let encoding = request.headers().get(ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(compressed());
    }
    let mut body = request.into_body();
    let mut bytes = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { break }; // trailers say nothing here, and nothing follows them
        bytes = if bytes.is_empty() { data } else { [bytes, data].concat().into() };
        whole(&bytes, most)?;
    }
    let length = whole(&bytes, most)?.ok_or_else(|| Status::internal("the request has no message"))?;
    bytes.advance(PREFIX);
    if bytes.len() < length {
        return Err(Status::internal("the request's message is cut short"));
    }
    M::decode(bytes).map_err(|why| Status::internal(format!("the request's message cannot be read: {why}")))
}

/// The length of the message that begins here; `None` while its prefix has not arrived.
fn whole(bytes: &[u8], most: usize) -> Result<Option<usize>, Status> {
    let Some(([flag, length @ ..], rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if *flag != 0 {
        return Err(compressed());
    }
    if length > most {
        return Err(Status::out_of_range(format!("the message has {length} bytes; at most {most} are read")));
    }
    if rest.len() > length {
        return Err(Status::unimplemented("the call takes one message"));
    }
    Ok(Some(length))
}

/// SPEC: gRPC compression: the answer to a message of an unknown encoding names those that are known.
fn compressed() -> Status {
    let mut status = Status::unimplemented("messages are not compressed here");
    status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    status
}

/// An answer of one message.
pub(in crate::endpoints) fn one(message: &impl Message) -> Response<Body> {
    answer(Answer::Message(encoded(message)))
}

/// An answer of many messages, until the status that ends it.
pub(in crate::endpoints) fn many<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Response<Body> {
    use futures_util::StreamExt as _;
    answer(Answer::Messages(messages.map(|message| message.map(|message| encoded(&message))).boxed()))
}

fn answer(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::new(answer));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// In a buffer of the message's own size: a stream waits for hours with what it has allocated.
fn encoded(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// The body of an answer.
enum Answer {
    Message(Bytes),
    Messages(BoxStream<'static, Result<Bytes, Status>>),
    Status,
    Ended,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match &mut *self {
            Self::Message(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Status;
                Frame::data(bytes)
            }
            Self::Messages(messages) => match ready!(messages.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => Frame::data(bytes),
                ended => {
                    let trailers = ended.and_then(Result::err).map_or_else(succeeded, |status| failed(&status));
                    *self = Self::Ended;
                    Frame::trailers(trailers)
                }
            },
            Self::Status => {
                *self = Self::Ended;
                Frame::trailers(succeeded())
            }
            Self::Ended => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

fn succeeded() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, OK);
    trailers
}

/// The trailers of a call that failed.
pub(in crate::endpoints) fn failed(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(STATUS, HeaderValue::from(i32::from(tonic::Code::Internal)));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tonic::Code;

    use super::*;

    const MOST: usize = 100;

    fn body(bytes: &[u8]) -> impl HttpBody<Data = Bytes, Error = Status> + Unpin + use<> {
        Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {})
    }

    async fn read(bytes: &[u8]) -> Result<String, Code> {
        let request = Request::new(body(bytes));
        message(request, MOST).await.map_err(|status: Status| status.code())
    }

    fn framed(text: &str) -> Vec<u8> {
        encoded(&text.to_owned()).to_vec()
    }

    #[tokio::test]
    async fn one_whole_message_is_read_and_nothing_else() {
        assert_eq!(read(&framed("ledger")).await.as_deref(), Ok("ledger"));
        assert_eq!(read(&framed("")).await.as_deref(), Ok(""));
        assert_eq!(read(b"").await, Err(Code::Internal));
        assert_eq!(read(&framed("ledger")[..7]).await, Err(Code::Internal));
        assert_eq!(read(&framed("ledger")[..3]).await, Err(Code::Internal));
        assert_eq!(read(&[framed("ledger"), framed("")].concat()).await, Err(Code::Unimplemented));
        assert_eq!(read(&framed(&"a".repeat(MOST - 2))).await.map(|text| text.len()), Ok(MOST - 2));
        assert_eq!(read(&framed(&"a".repeat(MOST - 1))).await, Err(Code::OutOfRange));
        assert_eq!(read(&[0, 0xff, 0xff, 0xff, 0xff]).await, Err(Code::OutOfRange));
        assert_eq!(read(&[1, 0, 0, 0, 0]).await, Err(Code::Unimplemented));
        assert_eq!(read(&[0, 0, 0, 0, 1, 0xff]).await, Err(Code::Internal));
    }

    #[tokio::test]
    async fn a_message_that_says_it_is_compressed_is_refused() {
        for (encoding, is_taken) in [("identity", true), ("gzip", false)] {
            let mut request = Request::new(body(&framed("ledger")));
            request.headers_mut().insert(ENCODING, encoding.parse().unwrap());
            let read = message::<String, _>(request, MOST).await;
            assert_eq!(read.is_ok(), is_taken);
            let known = read.err().map(|refused| refused.metadata().get("grpc-accept-encoding").cloned());
            assert!(known.is_none_or(|known| known.unwrap() == "identity"));
        }
    }

    #[tokio::test]
    async fn an_answer_ends_in_a_status() {
        let end = async |response: Response<Body>| {
            let collected = response.into_body().collect().await.unwrap();
            let status = collected.trailers().unwrap()[STATUS].to_str().unwrap().to_owned();
            (collected.to_bytes().to_vec(), status)
        };
        assert_eq!(end(one(&"a".to_owned())).await, (framed("a"), "0".to_owned()));
        let messages = |last| futures_util::stream::iter([Ok("a".to_owned()), Ok("b".to_owned()), last]);
        let told = [framed("a"), framed("b")].concat();
        assert_eq!(end(many(messages(Err(Status::unavailable("later"))))).await, (told.clone(), "14".to_owned()));
        assert_eq!(end(many(messages(Ok("c".to_owned())))).await, ([told, framed("c")].concat(), "0".to_owned()));
    }
}
