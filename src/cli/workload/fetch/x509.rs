//! `bonafide fetch x509`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::words::count;
use crate::cli::words::printable;
use crate::cli::workload::client::Client;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::certificates;
use crate::cli::workload::client::not_understood;
use crate::cli::workload::fetch::answer::ANSWER_TIME;
use crate::cli::workload::fetch::answer::ends;
use crate::cli::workload::fetch::answer::pems;
use crate::cli::workload::fetch::answer::titled;
use crate::cli::workload::fetch::files::FileSet;
use crate::cli::workload::fetch::files::pem;
use crate::cli::workload::fetch::files::written;
use crate::endpoints::workload_api::proto::X509svid;
use crate::endpoints::workload_api::proto::X509svidRequest;
use crate::endpoints::workload_api::proto::X509svidResponse;

/// X.509-SVIDs with their bundles
#[derive(Debug, clap::Args)]
pub struct X509Arguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    /// Write all of them there at once: svid.N.pem, svid.N.key, bundle.N.pem and
    /// federated_bundle.N.M.pem; N is 0 for the default identity
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print private keys, too
    #[arg(long)]
    show_key: bool,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Serialize)]
struct Shown {
    svids: Vec<Svid>,
    bundles: BTreeMap<String, Bundle>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    written: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Svid {
    spiffe_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    serial: String,
    not_before: i64,
    not_after: i64,
    certificates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}

#[derive(Serialize)]
struct Bundle {
    certificates: Vec<String>,
}

pub(in crate::cli::workload::fetch) fn run(arguments: &X509Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let response = block_on(ANSWER_TIME, async {
        let mut client = Client::connect(&socket).await?;
        client.first(X509svidRequest {}, async |api, request| api.fetch_x509svid(request).await).await
    })?;
    let mut shown = shown(&response, arguments.show_key)?;
    if let Some(folder) = &arguments.write {
        shown.written = files(&response)?.write(folder)?;
    }
    screen.answer(arguments.output, &shown, text);
    Ok(Exit::Fine)
}

/// The names that the SPIRE agent's own `fetch` gives them: by number, the default identity being 0.
fn files(response: &X509svidResponse) -> Result<FileSet, Failure> {
    let mut files = FileSet::new("x509");
    let federated: BTreeMap<_, _> = response.federated_bundles.iter().collect();
    for (n, svid) in response.svids.iter().enumerate() {
        files.public(format!("svid.{n}.pem"), pems(&svid.x509_svid)?.concat());
        files.secret(format!("svid.{n}.key"), pem("PRIVATE KEY", &svid.x509_svid_key));
        files.public(format!("bundle.{n}.pem"), pems(&svid.bundle)?.concat());
        for (m, bundle) in federated.values().enumerate() {
            files.public(format!("federated_bundle.{n}.{m}.pem"), pems(bundle)?.concat());
        }
    }
    Ok(files)
}

fn shown(response: &X509svidResponse, show_key: bool) -> Result<Shown, Failure> {
    let svids = response.svids.iter().map(|svid| shown_svid(svid, show_key)).collect::<Result<_, _>>()?;
    let own = response.svids.iter().map(|svid| (trust_domain(&svid.spiffe_id), &svid.bundle));
    let federated = response.federated_bundles.iter().map(|(id, bundle)| (id.clone(), bundle));
    let bundle = |(id, der): (String, &Bytes)| Ok((id, Bundle { certificates: pems(der)? }));
    let bundles = own.chain(federated).map(bundle).collect::<Result<_, _>>()?;
    Ok(Shown { svids, bundles, written: Vec::new() })
}

fn shown_svid(svid: &X509svid, show_key: bool) -> Result<Svid, Failure> {
    let chain = certificates(&svid.x509_svid)?;
    let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let (_, leaf) = leaf.ok_or_else(|| not_understood("an SVID without a certificate"))?;
    Ok(Svid {
        spiffe_id: svid.spiffe_id.clone(),
        hint: svid.hint.clone(),
        serial: leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        certificates: pems(&svid.x509_svid)?,
        private_key: show_key.then(|| pem("PRIVATE KEY", &svid.x509_svid_key).to_string()),
    })
}

/// `spiffe://example.org` of `spiffe://example.org/web`.
fn trust_domain(id: &str) -> String {
    id.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    for svid in &shown.svids {
        let end = ends(svid.not_after);
        text += &format!("{}\n  serial {}\n  ends   {end}\n", titled(&svid.spiffe_id, &svid.hint), svid.serial);
        if let Some(key) = &svid.private_key {
            text += &svid.certificates.concat();
            text += key;
        }
    }
    for (id, bundle) in &shown.bundles {
        let certificates = count(bundle.certificates.len() as u64, "certificate", "certificates");
        text += &format!("bundle of {}: {certificates}\n", printable(id));
    }
    text + &written(&shown.written)
}
