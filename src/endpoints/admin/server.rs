//! The admin API over HTTP: paths and queries in, reports out.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio::net::UnixStream;

use crate::authority::NotRotated;
use crate::authority::RotationOrder;
use crate::endpoints::admin::doorkeeper::AdminPeer;
use crate::endpoints::admin::operations::NotExplained;
use crate::endpoints::admin::operations::Operations;
use crate::endpoints::admin::operators::NotAdmitted;
use crate::endpoints::admin::operators::Operators;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::StatusReport;
use crate::endpoints::http::HttpAnswer;
use crate::endpoints::http::OperatorAcceptor;
use crate::endpoints::http::answer;
use crate::endpoints::http::one_request;
use crate::endpoints::http::places::Places;
use crate::endpoints::http::serve_each;
use crate::endpoints::transport::listener::Listener;
use crate::evidence::Principal;

/// The longest question is a reload, which resolves names.
const ANSWER_TIME: Duration = Duration::from_secs(60);

const QUESTIONS: [&str; 5] = ["/v1/status", "/v1/explain", "/v1/reload", "/v1/authority", "/v1/authority/rotate"];

/// Serves the admin API on `listener` to `operators`; runs until it is dropped.
pub async fn serve(listener: Listener, operators: Operators, operations: Arc<dyn Operations>) {
    let places = Places::default();
    let admit = |stream| admit(stream, &operators, &places, Arc::clone(&operations));
    serve_each(OperatorAcceptor::new(listener), admit).await;
}

fn admit(
    stream: UnixStream,
    operators: &Operators,
    places: &Places,
    operations: Arc<dyn Operations>,
) -> Option<(Principal, impl Future<Output = ()> + Send + use<>)> {
    let peer = AdminPeer::of(&stream);
    let uid = peer.as_ref().map_or(u32::MAX, |peer| peer.uid);
    let pid = peer.as_ref().ok().and_then(|peer| peer.pid);
    let admitted = peer.map_err(NotAdmitted::from).and_then(|peer| Ok((operators.admit(&peer, stream)?, peer)));
    match admitted {
        Ok((stream, peer)) => {
            let place = places.take(Some(uid))?;
            let answer = move |request| respond(request, peer.clone(), Arc::clone(&operations));
            Some((Principal::of_uid(uid), one_request(stream, answer, ANSWER_TIME, place)))
        }
        Err(why) => {
            tracing::warn!(pid, uid, %why, "refused on the admin socket");
            None
        }
    }
}

async fn respond(request: Parts, peer: AdminPeer, operations: Arc<dyn Operations>) -> HttpAnswer {
    let AdminPeer { pid, uid, .. } = peer;
    let question = format!("{} {}", request.method, request.uri);
    if request.method == Method::GET {
        tracing::debug!(pid, uid, question, "admin request");
    } else {
        tracing::info!(pid, uid, question, "admin request");
    }
    match (&request.method, request.uri.path()) {
        (&Method::GET, "/v1/status") => status(operations).await,
        (&Method::GET, "/v1/explain") => explain(request.uri.query().unwrap_or_default(), &*operations).await,
        (&Method::POST, "/v1/reload") => reload(operations).await,
        (&Method::GET, "/v1/authority") => json(StatusCode::OK, &operations.authority()),
        (&Method::POST, "/v1/authority/rotate") => rotate(request.uri.query().unwrap_or_default(), operations).await,
        (_, path) if QUESTIONS.contains(&path) => {
            problem(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "read with GET; reload and rotate with POST")
        }
        _ => problem(StatusCode::NOT_FOUND, "no_such_question", &format!("there is {}", QUESTIONS.join(", "))),
    }
}

async fn status(operations: Arc<dyn Operations>) -> HttpAnswer {
    let asked = Arc::clone(&operations);
    let replaced = tokio::task::spawn_blocking(move || asked.replaced()).await.unwrap_or_default();
    json(StatusCode::OK, &StatusReport { replaced, ..operations.status() })
}

async fn explain(query: &str, operations: &dyn Operations) -> HttpAnswer {
    if let Some(id) = query.strip_prefix("denial=") {
        return operations.explain_denial(id).map_or_else(
            || problem(StatusCode::NOT_FOUND, "unknown_decision", "no such decision is remembered"),
            |report| json(StatusCode::OK, &report),
        );
    }
    let Some(pid) = query.strip_prefix("pid=").and_then(|pid| pid.parse().ok()) else {
        return problem(StatusCode::BAD_REQUEST, "wrong_query", "ask with ?pid=N or ?denial=d-...");
    };
    match operations.explain_pid(pid).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(gone @ NotExplained::NoSuchProcess { .. }) => {
            problem(StatusCode::NOT_FOUND, "no_such_process", &gone.to_string())
        }
        Err(NotExplained::Undecided(cause)) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "undecided", &cause.to_string())
        }
    }
}

/// A reload that has begun is finished, whether or not its client waits for the answer.
async fn reload(operations: Arc<dyn Operations>) -> HttpAnswer {
    match tokio::spawn(async move { operations.reload().await }).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "stopped", "the reload was cut off"),
    }
}

/// A rotation that has begun is finished, likewise.
async fn rotate(query: &str, operations: Arc<dyn Operations>) -> HttpAnswer {
    let Some(order) = rotation_order(query) else {
        return problem(StatusCode::BAD_REQUEST, "wrong_query", "rotate with ?kind=x509 or ?kind=jwt, and taint=true");
    };
    match tokio::spawn(async move { operations.rotate(order).await }).await {
        Ok(Ok(report)) => json(StatusCode::OK, &report),
        Ok(Err(why)) => {
            let (status, error) = match why {
                NotRotated::KeptElsewhere => (StatusCode::CONFLICT, "kept_elsewhere"),
                NotRotated::TooManyKeys { .. } => (StatusCode::CONFLICT, "too_many_keys"),
                NotRotated::NotMade(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_made"),
                NotRotated::NotKept(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_kept"),
            };
            problem(status, error, &why.to_string())
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "stopped", "the rotation was cut off"),
    }
}

/// What a query asks for; both kinds where it names none. A word that is not known is no order: it could be a misspelt taint.
fn rotation_order(query: &str) -> Option<RotationOrder> {
    let mut order = RotationOrder { kind: None, taint: false };
    for word in query.split('&').filter(|word| !word.is_empty()) {
        match word.split_once('=')? {
            ("kind", kind) if order.kind.is_none() => order.kind = Some(kind.parse().ok()?),
            ("taint", taint) if !order.taint => order.taint = taint.parse().ok()?,
            _ => return None,
        }
    }
    Some(order)
}

fn problem(status: StatusCode, error: &str, detail: &str) -> HttpAnswer {
    json(status, &ErrorReport { error: error.to_owned(), detail: detail.to_owned() })
}

fn json(status: StatusCode, report: &impl Serialize) -> HttpAnswer {
    // A report has string keys and finite numbers only, so it always has a JSON form.
    answer(status, "application/json", serde_json::to_vec(report).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::attestation::linux::Linux;
    use crate::authority::KeyKind;
    use crate::endpoints::admin::doorkeeper::Doorkeeper;
    use crate::endpoints::admin::operations::tests::Fixed;
    use crate::evidence::Level;

    struct Door {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    fn open(operations: Fixed) -> Door {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let doorkeeper = Doorkeeper { own_uid: nix::unistd::getuid().as_raw(), group: None };
        let operators = Operators::new(doorkeeper, &Arc::new(Linux::open(Level::Reduced).unwrap()));
        tokio::spawn(serve(Listener::bind(&path, doorkeeper.access()).unwrap(), operators, Arc::new(operations)));
        Door { _folder: folder, path }
    }

    async fn say(door: &Door, request: &str) -> String {
        let (path, request) = (door.path.clone(), request.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let _refused_before_reading = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            let _reset_by_the_refusal = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        })
        .await
        .unwrap()
    }

    async fn ask(door: &Door, method: &str, path: &str) -> (u16, serde_json::Value) {
        let answer = say(door, &format!("{method} {path} HTTP/1.1\r\nhost: bonafide\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    #[tokio::test]
    async fn each_question_has_its_answer_or_says_why_not() {
        let door = open(Fixed::default());
        for (method, path, status, key, value) in [
            ("GET", "/v1/status", 200, "trust_domain", "example.org"),
            ("GET", "/v1/explain?pid=2", 503, "error", "undecided"),
            ("GET", "/v1/explain?pid=3", 404, "error", "no_such_process"),
            ("GET", "/v1/explain?denial=d-000000000002", 404, "error", "unknown_decision"),
            ("GET", "/v1/explain?pid=x", 400, "error", "wrong_query"),
            ("GET", "/v1/explain", 400, "error", "wrong_query"),
            ("GET", "/v1/reload", 405, "error", "wrong_method"),
            ("POST", "/v1/status", 405, "error", "wrong_method"),
            ("GET", "/v1/authority/rotate", 405, "error", "wrong_method"),
            ("POST", "/v1/authority", 405, "error", "wrong_method"),
            ("GET", "/v1/authority", 200, "kind", "embedded"),
            ("GET", "/v1/", 404, "error", "no_such_question"),
        ] {
            let (found, body) = ask(&door, method, path).await;
            assert_eq!((found, &body[key]), (status, &value.into()), "{method} {path}");
        }
        assert_eq!(ask(&door, "GET", "/v1/status").await.1["replaced"][0]["unit"], "web.service");
        for path in ["/v1/explain?pid=1", "/v1/explain?denial=d-000000000001"] {
            assert_eq!(ask(&door, "GET", path).await.1["result"]["why"], "no_entry");
        }
        assert_eq!(ask(&door, "POST", "/v1/reload").await.1["swapped"], true);
    }

    #[tokio::test]
    async fn a_rotation_is_of_what_the_query_names_and_of_nothing_else() {
        let operations = Fixed::default();
        let rotations = operations.rotations.clone();
        let door = open(operations);
        for (query, order) in [
            ("", Some((None, false))),
            ("?kind=x509", Some((Some(KeyKind::X509), false))),
            ("?kind=jwt&taint=true", Some((Some(KeyKind::Jwt), true))),
            ("?taint=false", Some((None, false))),
            ("?kind=", None),
            ("?kind=x509&kind=jwt", None),
            ("?taint=true&taint=false", None),
            ("?taint", None),
            ("?tainted=true", None),
        ] {
            let (status, body) = ask(&door, "POST", &format!("/v1/authority/rotate{query}")).await;
            let done: Vec<_> = rotations.send_replace(vec![]).iter().map(|order| (order.kind, order.taint)).collect();
            assert_eq!(done, order.into_iter().collect::<Vec<_>>(), "{query}: {body}");
            assert_eq!(status, if order.is_some() { 200 } else { 400 }, "{query}: {body}");
            let tainted = order.is_some_and(|(_, taint)| taint);
            assert_eq!(body["tainted"].as_array().is_some_and(|keys| !keys.is_empty()), tainted, "{query}: {body}");
        }
    }

    #[tokio::test]
    async fn a_rotation_that_was_not_begun_is_a_conflict_or_a_lack_with_its_text() {
        let first = "2026-11-30T00:00:00Z".to_owned();
        for (why, status, error) in [
            (NotRotated::KeptElsewhere, 409, "kept_elsewhere"),
            (NotRotated::TooManyKeys { kind: KeyKind::Jwt, count: 8, first }, 409, "too_many_keys"),
            (NotRotated::NotMade("the clock is wrong".to_owned()), 503, "not_made"),
            (NotRotated::NotKept("no space left".to_owned()), 503, "not_kept"),
        ] {
            let door = open(Fixed { not_rotated: Some(why.clone()), ..Fixed::default() });
            let (found, body) = ask(&door, "POST", "/v1/authority/rotate").await;
            assert_eq!((found, &body["error"], &body["detail"]), (status, &error.into(), &why.to_string().into()));
        }
    }

    #[tokio::test]
    async fn a_malformed_or_too_long_request_ends_its_connection_alone() {
        let door = open(Fixed::default());
        say(&door, "\0\0\0\r\n\r\n").await;
        let long = format!("GET /v1/status HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(1 << 20));
        assert!(!say(&door, &long).await.starts_with("HTTP/1.1 200"));
        assert_eq!(ask(&door, "GET", "/v1/status").await.0, 200);
    }

    #[tokio::test]
    async fn a_reload_that_has_begun_is_finished_without_its_operator() {
        let operations = Fixed::default();
        let mut reloads = operations.reloads.subscribe();
        assert!(reload(Arc::new(operations)).now_or_never().is_none(), "finished before its operator could leave");
        let finished = reloads.wait_for(|reloads| *reloads == 1);
        assert!(tokio::time::timeout(Duration::from_secs(10), finished).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_rotation_that_has_begun_is_finished_without_its_operator() {
        let operations = Fixed::default();
        let mut rotations = operations.rotations.subscribe();
        assert!(rotate("taint=true", Arc::new(operations)).now_or_never().is_none());
        let finished = rotations.wait_for(|rotations| rotations.len() == 1);
        assert!(tokio::time::timeout(Duration::from_secs(10), finished).await.unwrap().is_ok());
    }
}
