//! `bonafide fetch x509`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Format;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::words::count;
use crate::cli::words::from_now;
use crate::cli::words::now;
use crate::cli::words::printable;
use crate::cli::workload::client::Client;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::not_understood;
use crate::cli::workload::fetch::ANSWER_TIME;
use crate::cli::workload::fetch::files::pem;
use crate::cli::workload::fetch::files::replace;
use crate::endpoints::workload_api::proto::X509svid;
use crate::endpoints::workload_api::proto::X509svidRequest;
use crate::endpoints::workload_api::proto::X509svidResponse;

/// X.509-SVIDs with their bundles
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    /// Write the default identity to svid.pem, svid_key.pem and bundle.pem there
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
    bundles: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Svid {
    spiffe_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    serial: String,
    not_before: i64,
    not_after: i64,
    certificates: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}

pub(in crate::cli::workload::fetch) fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let response = block_on(ANSWER_TIME, async {
        let mut client = Client::connect(&socket).await?;
        client.first(X509svidRequest {}, async |api, request| api.fetch_x509svid(request).await).await
    })?;
    let shown = shown(&response, arguments.show_key)?;
    if let (Some(folder), Some(default)) = (&arguments.write, response.svids.first()) {
        // The key first: whoever watches for the certificate finds the key that belongs to it.
        replace(folder, "svid_key.pem", &pem("PRIVATE KEY", &default.x509_svid_key))?;
        replace(folder, "bundle.pem", &certificates_pem(&default.bundle)?)?;
        replace(folder, "svid.pem", &certificates_pem(&default.x509_svid)?)?;
    }
    match arguments.output.output {
        Format::Json => screen.json(&shown),
        Format::Text => screen.text(&text(&shown)),
    }
    Ok(Exit::Fine)
}

fn shown(response: &X509svidResponse, show_key: bool) -> Result<Shown, Failure> {
    let svids = response.svids.iter().map(|svid| shown_svid(svid, show_key)).collect::<Result<_, _>>()?;
    let own = response.svids.iter().map(|svid| (trust_domain(&svid.spiffe_id), &svid.bundle));
    let federated = response.federated_bundles.iter().map(|(id, bundle)| (id.clone(), bundle));
    let bundles =
        own.chain(federated).map(|(id, bundle)| Ok((id, certificates(bundle)?.len()))).collect::<Result<_, _>>()?;
    Ok(Shown { svids, bundles })
}

fn shown_svid(svid: &X509svid, show_key: bool) -> Result<Svid, Failure> {
    let chain = certificates(&svid.x509_svid)?;
    let leaf = chain.first().ok_or_else(|| not_understood("an SVID without a certificate"))?;
    Ok(Svid {
        spiffe_id: svid.spiffe_id.clone(),
        hint: svid.hint.clone(),
        serial: leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        certificates: certificates_pem(&svid.x509_svid)?,
        private_key: show_key.then(|| pem("PRIVATE KEY", &svid.x509_svid_key).to_string()),
    })
}

/// `spiffe://example.org` of `spiffe://example.org/web`.
fn trust_domain(id: &str) -> String {
    id.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// The certificates in concatenated DER.
pub(in crate::cli::workload::fetch) fn certificates(mut der: &[u8]) -> Result<Vec<X509Certificate<'_>>, Failure> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| not_understood(&format!("a certificate: {error}")))?;
        certificates.push(certificate);
        der = rest;
    }
    Ok(certificates)
}

pub(in crate::cli::workload::fetch) fn certificates_pem(mut der: &[u8]) -> Result<String, Failure> {
    let mut text = String::new();
    while !der.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(der).map_err(|error| not_understood(&format!("a certificate: {error}")))?;
        let (one, after) = der.split_at(der.len() - rest.len());
        text += &pem("CERTIFICATE", one);
        der = after;
    }
    Ok(text)
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    for svid in &shown.svids {
        let hint = if svid.hint.is_empty() { String::new() } else { format!(" (hint {})", printable(&svid.hint)) };
        #[allow(clippy::cast_precision_loss, reason = "a date in seconds is far below 2^52")]
        let end = from_now(svid.not_after as f64, now());
        text += &format!("{}{hint}\n  serial {}\n  ends   {end}\n", printable(&svid.spiffe_id), svid.serial);
        if let Some(key) = &svid.private_key {
            text += &svid.certificates;
            text += key;
        }
    }
    for (id, certificates) in &shown.bundles {
        let certificates = count(*certificates as u64, "certificate", "certificates");
        text += &format!("bundle of {}: {certificates}\n", printable(id));
    }
    text
}
