//! `bonafide fetch bundle`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::words::count;
use crate::cli::words::printable;
use crate::cli::workload::client::Client;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::not_understood;
use crate::cli::workload::fetch::answer::ANSWER_TIME;
use crate::cli::workload::fetch::answer::pems;
use crate::cli::workload::fetch::files::FileSet;
use crate::cli::workload::fetch::files::written;
use crate::endpoints::workload_api::proto::JwtBundlesRequest;
use crate::endpoints::workload_api::proto::X509BundlesRequest;

/// The bundles that this process may see: certificates and token keys
#[derive(Debug, clap::Args)]
pub struct BundleArguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    /// Write TRUST-DOMAIN.pem and TRUST-DOMAIN.jwks.json there, all at once
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Default, Serialize)]
struct Bundle {
    certificates: Vec<String>,
    jwks: Value,
}

pub(in crate::cli::workload::fetch) fn run(arguments: &BundleArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let (x509, jwt) = block_on(ANSWER_TIME, async {
        let mut client = Client::connect(&socket).await?;
        let x509 = client.first(X509BundlesRequest {}, async |api, request| api.fetch_x509_bundles(request).await);
        let x509 = x509.await?.bundles;
        let jwt = client.first(JwtBundlesRequest {}, async |api, request| api.fetch_jwt_bundles(request).await);
        Ok((x509, jwt.await?.bundles))
    })?;
    let bundles = shown(&x509, &jwt)?;
    let mut files = FileSet::new("bundle");
    for (id, der) in &x509 {
        files.public(format!("{}.pem", file_name(id)?), pems(der)?.concat());
    }
    for (id, jwks) in &jwt {
        files.public(format!("{}.jwks.json", file_name(id)?), String::from_utf8_lossy(jwks).into_owned());
    }
    let paths = arguments.write.as_deref().map_or(Ok(Vec::new()), |folder| files.write(folder))?;
    screen.answer(arguments.output, &bundles, |bundles| text(bundles) + &written(&paths));
    Ok(Exit::Fine)
}

fn shown(x509: &BTreeMap<String, Bytes>, jwt: &BTreeMap<String, Bytes>) -> Result<BTreeMap<String, Bundle>, Failure> {
    let mut bundles: BTreeMap<String, Bundle> = BTreeMap::new();
    for (id, der) in x509 {
        bundles.entry(id.clone()).or_default().certificates = pems(der)?;
    }
    for (id, jwks) in jwt {
        let jwks = serde_json::from_slice(jwks).map_err(|error| not_understood(&format!("a JWK Set: {error}")))?;
        bundles.entry(id.clone()).or_default().jwks = jwks;
    }
    Ok(bundles)
}

/// The name of a trust domain as the name of a file: it has no slash, and does not begin with a dot.
fn file_name(id: &str) -> Result<&str, Failure> {
    let name = id.strip_prefix("spiffe://").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(not_understood("the name of a trust domain"));
    }
    Ok(name)
}

fn text(bundles: &BTreeMap<String, Bundle>) -> String {
    let mut text = String::new();
    for (id, bundle) in bundles {
        let certificates = count(bundle.certificates.len() as u64, "certificate", "certificates");
        let keys = bundle.jwks["keys"].as_array().map_or(0, Vec::len);
        text += &format!("{}: {certificates}, {}\n", printable(id), count(keys as u64, "token key", "token keys"));
    }
    text
}
