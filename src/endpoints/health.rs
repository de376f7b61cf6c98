//! `/live` and `/ready` over loopback HTTP.

use http::Method;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;

use crate::endpoints::http::HttpAnswer;
use crate::endpoints::http::HttpListener;
use crate::endpoints::http::answer;
use crate::endpoints::http::serve as serve_http;
use crate::readiness::ActiveReason;
use crate::readiness::Readiness;

#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    reasons: &'a [ActiveReason],
}

/// Serves health on `listener`; runs until it is dropped.
pub async fn serve(listener: HttpListener, readiness: Readiness) {
    serve_http(listener, move |request| std::future::ready(respond(&request, &readiness))).await;
}

fn respond(request: &Parts, readiness: &Readiness) -> HttpAnswer {
    match (&request.method, request.uri.path()) {
        // That this line runs is the proof.
        (&Method::GET | &Method::HEAD, "/live") => answer(StatusCode::OK, "text/plain", "live\n"),
        (&Method::GET | &Method::HEAD, "/ready") => {
            let reasons = readiness.watch().borrow().clone();
            let ready = readiness.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = serde_json::to_vec(&Ready { ready, reasons: &reasons }).unwrap_or_default();
            answer(status, "application/json", body)
        }
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "GET /live or GET /ready\n"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::readiness::Severity;

    async fn get(path: &str, readiness: &Readiness) -> (StatusCode, String) {
        let request = http::Request::get(path).body(()).unwrap().into_parts().0;
        let answer = respond(&request, readiness);
        let status = answer.status();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_says_what_stands_in_the_way_and_a_degraded_daemon_is_ready() {
        let readiness = Readiness::default();
        let [authority, configuration] = ["authority", "configuration"].map(|name| readiness.register(name));
        authority.block(Severity::NotReady, "its state is being read");
        let (status, body) = get("/ready", &readiness).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("its state is being read"), "{body}");
        assert_eq!(get("/live", &readiness).await.0, StatusCode::OK);

        authority.clear();
        configuration.block(Severity::Degraded, "bonafide.toml:3: no value");
        let (status, body) = get("/ready", &readiness).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("bonafide.toml:3"), "{body}");
    }

    #[tokio::test]
    async fn there_is_nothing_else() {
        assert_eq!(get("/", &Readiness::default()).await.0, StatusCode::NOT_FOUND);
    }
}
