//! `bonafide validate`: the daemon's own judgement of a token.

use std::io::Read;
use std::time::Duration;

use prost_types::Struct;
use prost_types::value::Kind;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use tonic::Code;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::words::from_now;
use crate::cli::words::now;
use crate::cli::words::printable;
use crate::cli::workload::client::Client;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::refused;
use crate::endpoints::workload_api::proto::ValidateJwtsvidRequest;

const ANSWER_TIME: Duration = Duration::from_secs(30);
/// More than any token has.
const MAX_TOKEN: u64 = 1 << 20;

/// Ask whether a JWT-SVID is valid for an audience
#[derive(Debug, clap::Args)]
pub struct ValidateArguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    /// The audience that the token must name
    #[arg(long)]
    audience: String,
    /// The token; - reads it from standard input, where no other process sees it
    token: String,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Judgement {
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

pub(in crate::cli) fn run(arguments: &ValidateArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let request = ValidateJwtsvidRequest { audience: arguments.audience.clone(), svid: token(&arguments.token)? };
    let answer = block_on(ANSWER_TIME, async {
        let mut client = Client::connect(&socket).await?;
        Ok(client.ask(request, async |api, request| api.validate_jwtsvid(request).await).await)
    })?;
    let judgement = match answer {
        Ok(valid) => Judgement {
            valid: true,
            spiffe_id: Some(valid.spiffe_id),
            claims: Some(valid.claims.map(object).unwrap_or_default()),
            why: None,
        },
        Err(status) if status.code() == Code::InvalidArgument => {
            Judgement { valid: false, spiffe_id: None, claims: None, why: Some(status.message().to_owned()) }
        }
        Err(status) => return Err(refused(&status)),
    };
    screen.answer(arguments.output, &judgement, text);
    Ok(if judgement.valid { Exit::Fine } else { Exit::No })
}

fn token(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut token = String::new();
    std::io::stdin().take(MAX_TOKEN).read_to_string(&mut token).map_err(|error| {
        Failure::new(Exit::Usage, "cannot read the token", error.to_string(), "bonafide validate --audience A - <FILE")
    })?;
    Ok(token.trim().to_owned())
}

fn text(judgement: &Judgement) -> String {
    let Some(id) = &judgement.spiffe_id else {
        return format!("not valid: {}\n", printable(judgement.why.as_deref().unwrap_or_default()));
    };
    let end = judgement.claims.as_ref().and_then(|claims| claims.get("exp")?.as_f64());
    let end = end.map(|end| format!(", ends {}", from_now(end, now()))).unwrap_or_default();
    format!("valid: {}{end}\n", printable(id))
}

fn object(claims: Struct) -> Map<String, Value> {
    claims.fields.into_iter().map(|(name, value)| (name, json(value))).collect()
}

/// A date is a whole number in a token; on the way here it became a float (SPEC: Workload API, `claims` is a `Struct`).
#[allow(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 { (value as i64).into() } else { value.into() }
}

fn json(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(object_value)) => object(object_value).into(),
    }
}
