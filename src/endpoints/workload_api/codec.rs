//! Protobuf with small buffers: a stream waits for hours with what it has allocated, and its messages have a kilobyte or
//! two. (The default is 8 KiB for each stream and direction.)

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic::codec::Codec;
use tonic_prost::ProstDecoder;
use tonic_prost::ProstEncoder;

const BUFFER: usize = 512;
/// Messages are gathered up to this before they are handed to the engine.
const YIELD: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
#[derive(Debug, Clone, Copy)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}
