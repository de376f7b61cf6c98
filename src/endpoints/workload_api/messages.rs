//! Messages of the Workload API from what a caller has, and questions to a caller from messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost_types::ListValue;
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::Status;

use crate::endpoints::workload_api::proto::JwtBundlesResponse;
use crate::endpoints::workload_api::proto::Jwtsvid;
use crate::endpoints::workload_api::proto::JwtsvidRequest;
use crate::endpoints::workload_api::proto::JwtsvidResponse;
use crate::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use crate::endpoints::workload_api::proto::ValidateJwtsvidResponse;
use crate::endpoints::workload_api::proto::X509BundlesResponse;
use crate::endpoints::workload_api::proto::X509svid;
use crate::endpoints::workload_api::proto::X509svidResponse;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::ValidToken;
use crate::entitlement::door::X509Update;
use crate::identity::JwtSvid;
use crate::identity::PrivateKey;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;

/// The most audiences of one token, and bytes of one (SPEC: product contract §6).
const MAX_AUDIENCES: usize = 16;
const MAX_AUDIENCE: usize = 1024;

/// What FetchJWTSVID asks for.
pub(super) struct JwtQuestion {
    pub(super) audiences: Vec<String>,
    pub(super) id: Option<SpiffeId>,
}

impl TryFrom<JwtsvidRequest> for JwtQuestion {
    type Error = Status;

    fn try_from(request: JwtsvidRequest) -> Result<Self, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience is mandatory"));
        }
        if request.audience.len() > MAX_AUDIENCES {
            return Err(Status::invalid_argument("at most 16 audiences can be asked for"));
        }
        request.audience.iter().try_for_each(|audience| check_audience(audience))?;
        let id = match request.spiffe_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|why| Status::invalid_argument(format!("spiffe_id: {why}")))?),
        };
        Ok(Self { audiences: request.audience, id })
    }
}

/// The audience and the token of a ValidateJWTSVID.
pub(super) fn token_to_validate(request: ValidateJwtsvidRequest) -> Result<(String, String), Status> {
    check_audience(&request.audience)?;
    if request.svid.is_empty() {
        return Err(Status::invalid_argument("svid is mandatory"));
    }
    Ok((request.audience, request.svid))
}

fn check_audience(audience: &str) -> Result<(), Status> {
    match audience.len() {
        0 => Err(Status::invalid_argument("an audience is empty")),
        1..=MAX_AUDIENCE => Ok(()),
        _ => Err(Status::invalid_argument("an audience has more than 1024 bytes")),
    }
}

pub(super) fn x509_svids(update: X509Update) -> X509svidResponse {
    let svids = update.svids.into_iter().map(|svid| X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: svid.chain.concat().into(),
        x509_svid_key: shared(svid.key),
        bundle: update.bundle.clone(),
        hint: svid.hint.unwrap_or_default(),
    });
    X509svidResponse { svids: svids.collect(), crl: Vec::new(), federated_bundles: by_id(update.federated) }
}

pub(super) fn x509_bundles(bundles: EncodedBundles) -> X509BundlesResponse {
    X509BundlesResponse { crl: Vec::new(), bundles: by_id(bundles) }
}

pub(super) fn jwt_bundles(bundles: EncodedBundles) -> JwtBundlesResponse {
    JwtBundlesResponse { bundles: by_id(bundles) }
}

pub(super) fn jwt_svids(svids: Vec<JwtSvid>) -> JwtsvidResponse {
    let svids = svids.into_iter().map(|svid| Jwtsvid {
        spiffe_id: svid.id.to_string(),
        svid: svid.token,
        hint: svid.hint.unwrap_or_default(),
    });
    JwtsvidResponse { svids: svids.collect() }
}

pub(super) fn valid_token(token: ValidToken) -> ValidateJwtsvidResponse {
    let mut claims = structure(token.claims);
    if let Some(audience) = claims.fields.get_mut("aud")
        && matches!(audience.kind, Some(Kind::StringValue(_)))
    {
        let one = std::mem::take(audience);
        audience.kind = Some(Kind::ListValue(ListValue { values: vec![one] }));
    }
    ValidateJwtsvidResponse { spiffe_id: token.id.to_string(), claims: Some(claims) }
}

/// A key's bytes without a copy; wiped when the last message that holds them has gone.
fn shared(key: Arc<PrivateKey>) -> Bytes {
    struct Exposed(Arc<PrivateKey>);
    impl AsRef<[u8]> for Exposed {
        fn as_ref(&self) -> &[u8] {
            self.0.expose_pkcs8()
        }
    }
    Bytes::from_owner(Exposed(key))
}

fn by_id(bundles: BTreeMap<TrustDomain, Bytes>) -> BTreeMap<String, Bytes> {
    bundles.into_iter().map(|(trust_domain, bundle)| (trust_domain.id_string(), bundle)).collect()
}

fn structure(object: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name, value_of(value))).collect() }
}

/// Recursion: a token's JSON is at most 128 deep, by its parser's limit.
fn value_of(value: serde_json::Value) -> prost_types::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(value_of).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(structure(object)),
    };
    prost_types::Value { kind: Some(kind) }
}
