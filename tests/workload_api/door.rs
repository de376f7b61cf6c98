//! A daemon's workload door in the test's own process, and clients of it.

use std::path::PathBuf;
use std::sync::Arc;

use bonafide::endpoints::transport::accept;
use bonafide::endpoints::transport::http2::Http2;
use bonafide::endpoints::transport::listener::Listener;
use bonafide::endpoints::transport::unix::UnixAcceptor;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use bonafide::endpoints::workload_socket::WorkloadServices;
use bonafide::fairness::Budgets;
use bonafide::fairness::Limits;
use bonafide::readiness::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::callers::FakeCallers;
use crate::callers::identify;

/// A served door; its socket lies in a directory of its own.
pub(crate) struct Door {
    pub(crate) path: PathBuf,
    pub(crate) budgets: Budgets,
    pub(crate) readiness: Readiness,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

pub(crate) fn limits() -> Limits {
    Limits::for_descriptors(1024)
}

pub(crate) fn open(callers: &FakeCallers, limits: Limits) -> Door {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("workload.sock");
    let readiness = Readiness::default();
    let listener = Listener::bind(&path, 0o666).unwrap();
    let acceptor = UnixAcceptor::new(listener, identify(), readiness.clone()).unwrap();
    let idle = limits.idle;
    let (budgets, stop) = (Budgets::new(limits), CancellationToken::new());
    let services = Arc::new(WorkloadServices::new(&readiness, move || idle).unwrap());
    let protocol = Http2 { connections: Arc::new(callers.clone()), services };
    let served = tokio::spawn(accept::serve(acceptor, budgets.clone(), stop.clone(), protocol));
    Door { path, budgets, readiness, stop, served, _directory: directory }
}

impl Door {
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::try_from(format!("unix:{}", self.path.display())).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }
}
