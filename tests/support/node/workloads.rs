//! Clients of the Workload API: each is one connection of one process, with as many calls on it as a test likes.

use std::time::Duration;

use bonafide::endpoints::workload_api::proto::JwtBundlesRequest;
use bonafide::endpoints::workload_api::proto::JwtBundlesResponse;
use bonafide::endpoints::workload_api::proto::Jwtsvid;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidResponse;
use bonafide::endpoints::workload_api::proto::X509BundlesRequest;
use bonafide::endpoints::workload_api::proto::X509BundlesResponse;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::future::Shared;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::asking::asking;
use crate::pipes::Connected;

/// One connection. Clones are the same.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Shared<BoxFuture<'static, Result<Channel, Status>>>,
}

/// A stream of updates.
pub(crate) struct Updates<M = X509svidResponse> {
    stream: Opening<M>,
}

enum Opening<M> {
    Open(Box<Result<Streaming<M>, Status>>),
    /// On its way, in a task of its own.
    Underway(JoinHandle<Result<Streaming<M>, Status>>),
}

/// What a client sees next on a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen<M = X509svidResponse> {
    Update(M),
    End(Code),
}

impl Client {
    /// A client of a connection that is there; whether the node serves it, its first call tells.
    pub(crate) fn new(connected: Connected) -> Self {
        let channel = async {
            let refused = |why: tonic::transport::Error| Status::unknown(why.to_string());
            connected.try_channel().await.map_err(refused)
        };
        Self { channel: channel.boxed().shared() }
    }

    /// Opens a stream of X.509-SVIDs.
    pub(crate) async fn x509_svids(&self) -> Updates {
        Updates { stream: Opening::Open(Box::new(self.clone().open_x509_svids().await)) }
    }

    /// Likewise, without waiting for it.
    pub(crate) fn x509_svids_later(&self) -> Updates {
        Updates { stream: Opening::Underway(tokio::spawn(self.clone().open_x509_svids())) }
    }

    async fn open_x509_svids(self) -> Result<Streaming<X509svidResponse>, Status> {
        Ok(self.api().await?.fetch_x509svid(asking(X509svidRequest {})).await?.into_inner())
    }

    /// Opens a stream of X.509 bundles.
    pub(crate) async fn x509_bundles(&self) -> Updates<X509BundlesResponse> {
        let opened =
            async { Ok(self.api().await?.fetch_x509_bundles(asking(X509BundlesRequest {})).await?.into_inner()) };
        Updates { stream: Opening::Open(Box::new(opened.await)) }
    }

    /// Opens a stream of JWT bundles.
    pub(crate) async fn jwt_bundles(&self) -> Updates<JwtBundlesResponse> {
        let opened =
            async { Ok(self.api().await?.fetch_jwt_bundles(asking(JwtBundlesRequest {})).await?.into_inner()) };
        Updates { stream: Opening::Open(Box::new(opened.await)) }
    }

    /// Fetches tokens for an audience: of one SPIFFE ID, or of all with `""`.
    pub(crate) async fn jwt_svids(&self, audience: &str, spiffe_id: &str) -> Result<Vec<Jwtsvid>, Code> {
        let message = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: spiffe_id.to_owned() };
        let answer = async { self.api().await?.fetch_jwtsvid(asking(message)).await };
        answer.await.map(|answer| answer.into_inner().svids).map_err(|status| status.code())
    }

    /// Has a token validated.
    pub(crate) async fn validate(&self, audience: &str, token: &str) -> Result<ValidateJwtsvidResponse, Code> {
        let message = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() };
        let answer = async { self.api().await?.validate_jwtsvid(asking(message)).await };
        answer.await.map(tonic::Response::into_inner).map_err(|status| status.code())
    }

    async fn api(&self) -> Result<SpiffeWorkloadApiClient<Channel>, Status> {
        Ok(SpiffeWorkloadApiClient::new(self.channel.clone().await?))
    }
}

impl<M> Updates<M> {
    /// The next message or the end. Waits for it as long as it takes on the paused clock.
    pub(crate) async fn next(&mut self) -> Seen<M> {
        match self.message().await {
            Ok(Some(update)) => Seen::Update(update),
            Ok(None) => Seen::End(Code::Ok),
            Err(status) => Seen::End(status.code()),
        }
    }

    async fn message(&mut self) -> Result<Option<M>, Status> {
        if let Opening::Underway(opening) = &mut self.stream {
            self.stream = Opening::Open(Box::new(opening.await.unwrap()));
        }
        match &mut self.stream {
            Opening::Open(opened) => match &mut **opened {
                Ok(stream) => stream.message().await,
                Err(status) => Err(status.clone()),
            },
            Opening::Underway(_) => unreachable!("it was waited for"),
        }
    }

    /// What comes within `patience`; `None` where nothing does.
    pub(crate) async fn within(&mut self, patience: Duration) -> Option<Seen<M>> {
        tokio::time::timeout(patience, self.next()).await.ok()
    }

    /// What the client is told at the end, which comes before anything else.
    pub(crate) async fn refusal(&mut self) -> String {
        match self.message().await {
            Ok(_) => panic!("it is not refused"),
            Err(status) => status.message().to_owned(),
        }
    }

    /// The next message.
    pub(crate) async fn update(&mut self) -> M {
        match self.next().await {
            Seen::Update(update) => update,
            Seen::End(code) => panic!("the stream ended with {code}"),
        }
    }
}

impl Updates {
    /// The IDs of the next update.
    pub(crate) async fn ids(&mut self) -> Vec<String> {
        ids(&self.update().await)
    }
}

/// The SPIFFE IDs of an update, default identity first.
pub(crate) fn ids(update: &X509svidResponse) -> Vec<String> {
    update.svids.iter().map(|svid| svid.spiffe_id.clone()).collect()
}
