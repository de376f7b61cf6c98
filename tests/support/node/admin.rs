//! The operator's client of a node, over a real socket in a folder of its own.

use std::path::PathBuf;
use std::sync::Arc;

use bonafide::attestation::linux::Linux;
use bonafide::endpoints::admin::doorkeeper::Doorkeeper;
use bonafide::endpoints::admin::operations::Operations;
use bonafide::endpoints::admin::operators::Operators;
use bonafide::endpoints::admin::reports::AuthorityReport;
use bonafide::endpoints::admin::reports::ErrorReport;
use bonafide::endpoints::admin::reports::ExplainReport;
use bonafide::endpoints::admin::reports::ReloadReport;
use bonafide::endpoints::admin::reports::RotationReport;
use bonafide::endpoints::admin::reports::StatusReport;
use bonafide::endpoints::admin::server;
use bonafide::endpoints::transport::listener::Listener;
use bonafide::evidence::Level;
use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// Asks over a connection of its own each time.
///
/// RACE: with a real socket a paused clock goes on to its next timer whenever somebody waits for bytes, which is half a
/// second at most in a running node.
pub(crate) struct AdminClient {
    socket: PathBuf,
    _folder: TempDir,
}

impl AdminClient {
    /// A client, and the door that it asks at, to be run.
    pub(super) fn of(operations: Arc<dyn Operations>) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let doorkeeper = Doorkeeper { own_uid: rustix::process::geteuid().as_raw(), group: None };
        let listener = Listener::bind(&socket, doorkeeper.access()).unwrap();
        let operators = Operators::new(doorkeeper, &Arc::new(Linux::open(Level::Reduced).unwrap()));
        (Self { socket, _folder: folder }, server::serve(listener, operators, operations))
    }

    pub(crate) async fn status(&self) -> StatusReport {
        self.ask(Method::GET, "/v1/status").await.unwrap()
    }

    /// What a process would get and why, or why that cannot be said.
    pub(crate) async fn explain(&self, pid: u32) -> Result<ExplainReport, ErrorReport> {
        self.ask(Method::GET, &format!("/v1/explain?pid={pid}")).await
    }

    /// Why somebody was refused, by the name of the decision that he was told.
    pub(crate) async fn explain_denial(&self, decision: &str) -> Result<ExplainReport, ErrorReport> {
        self.ask(Method::GET, &format!("/v1/explain?denial={decision}")).await
    }

    pub(crate) async fn reload(&self) -> ReloadReport {
        self.ask(Method::POST, "/v1/reload").await.unwrap()
    }

    pub(crate) async fn authority(&self) -> AuthorityReport {
        self.ask(Method::GET, "/v1/authority").await.unwrap()
    }

    pub(crate) async fn rotate(&self, query: &str) -> Result<RotationReport, ErrorReport> {
        self.ask(Method::POST, &format!("/v1/authority/rotate?{query}")).await
    }

    async fn ask<R: DeserializeOwned>(&self, method: Method, question: &str) -> Result<R, ErrorReport> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(question).header(http::header::HOST, "bonafide");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        if status == StatusCode::OK {
            Ok(serde_json::from_slice(&body).unwrap())
        } else {
            Err(serde_json::from_slice(&body).unwrap())
        }
    }
}
