//! `bonafide fetch jwt`.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::words::printable;
use crate::cli::workload::client::Client;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::not_understood;
use crate::cli::workload::fetch::answer::ANSWER_TIME;
use crate::cli::workload::fetch::answer::ends;
use crate::cli::workload::fetch::answer::titled;
use crate::cli::workload::fetch::files::FileSet;
use crate::cli::workload::fetch::files::written;
use crate::endpoints::workload_api::proto::Jwtsvid;
use crate::endpoints::workload_api::proto::JwtsvidRequest;

/// JWT-SVIDs for an audience
#[derive(Debug, clap::Args)]
pub struct JwtArguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    /// The audience of the token; may be given up to eight times
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// Only this identity
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Write the tokens there at once: jwt_svid.N.token, N is 0 for the default
    /// identity
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print the tokens themselves
    #[arg(long)]
    show_token: bool,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Serialize)]
struct Shown {
    svids: Vec<Svid>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    written: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Svid {
    spiffe_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    audience: Vec<String>,
    not_after: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

pub(in crate::cli::workload::fetch) fn run(arguments: &JwtArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let request = JwtsvidRequest {
        audience: arguments.audience.clone(),
        spiffe_id: arguments.spiffe_id.clone().unwrap_or_default(),
    };
    let response = block_on(ANSWER_TIME, async {
        let mut client = Client::connect(&socket).await?;
        client.one(request, async |api, request| api.fetch_jwtsvid(request).await).await
    })?;
    let svids = response.svids.iter().map(|svid| shown(svid, arguments.show_token)).collect::<Result<_, _>>()?;
    let mut files = FileSet::new("jwt");
    for (n, svid) in response.svids.iter().enumerate() {
        files.secret(format!("jwt_svid.{n}.token"), Zeroizing::new(svid.svid.clone()));
    }
    let written = arguments.write.as_deref().map_or(Ok(Vec::new()), |folder| files.write(folder))?;
    let shown = Shown { svids, written };
    screen.answer(arguments.output, &shown, text);
    Ok(Exit::Fine)
}

/// What a token says of itself. Nothing is verified here: it comes from the daemon that signed it.
fn shown(svid: &Jwtsvid, show_token: bool) -> Result<Svid, Failure> {
    let payload = svid.svid.split('.').nth(1).unwrap_or_default();
    let claims: Value = BASE64_URL_SAFE_NO_PAD
        .decode(payload)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| not_understood("a token"))?;
    let audience = match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(some) => some.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![],
    };
    Ok(Svid {
        spiffe_id: svid.spiffe_id.clone(),
        hint: svid.hint.clone(),
        audience,
        not_after: claims["exp"].as_i64().unwrap_or_default(),
        token: show_token.then(|| svid.svid.clone()),
    })
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    for svid in &shown.svids {
        let (audience, end) = (printable(&svid.audience.join(", ")), ends(svid.not_after));
        text += &format!("{}\n  for    {audience}\n  ends   {end}\n", titled(&svid.spiffe_id, &svid.hint));
        if let Some(token) = &svid.token {
            text += &format!("{token}\n");
        }
    }
    text + &written(&shown.written)
}
