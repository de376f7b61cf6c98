//! Forged tokens, through ValidateJWTSVID on the shipped daemon's socket. They are signed with the key of a federated
//! trust domain, so that the forged part is their only fault.

use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use serde_json::Value;
use serde_json::json;
use tonic::Code;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::requests::client;
use crate::requests::tokens;
use crate::transport::me;

/// A daemon whose caller federates with `partner.test`, and the key of that trust domain.
struct Federation {
    daemon: Daemon,
    partner: EcdsaKeyPair,
    _folder: tempfile::TempDir,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Federation {
    fn start() -> Self {
        let partner = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = partner.public_key().as_ref()[1..].split_at(32);
        let key = |purpose, kid| json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": purpose, "x": encoded(x), "y": encoded(y)});
        let folder = tempfile::TempDir::with_prefix("bonafide-").unwrap();
        let bundle = folder.path().join("partner.json");
        std::fs::write(&bundle, json!({"keys": [key("jwt-svid", "k")]}).to_string()).unwrap();
        let tables = format!(
            "[[federation]]\ntrust_domain = \"partner.test\"\nbundle_file = {bundle:?}\n{}\
             federates_with = [\"partner.test\"]\n",
            me()
        );
        Self { daemon: Daemon::start(&tables), partner, _folder: folder }
    }

    /// Signs two texts as header and claims.
    fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.partner.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", encoded(signature))
    }

    fn with_claim(&self, name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        self.signed(&header().to_string(), &claims.to_string())
    }

    fn without_claim(&self, name: &str) -> String {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        self.signed(&header().to_string(), &claims.to_string())
    }

    fn asking(&self, name: &str, value: Value) -> String {
        let mut header = header();
        header[name] = value;
        self.signed(&header.to_string(), &claims().to_string())
    }

    fn honest(&self) -> String {
        self.signed(&header().to_string(), &claims().to_string())
    }

    async fn validate(&self, token: &str) -> Result<String, tonic::Status> {
        let request = ValidateJwtsvidRequest { audience: "ledger".to_owned(), svid: token.to_owned() };
        let valid = client(&self.daemon).await.validate_jwtsvid(asking(request)).await;
        valid.map(|valid| valid.into_inner().spiffe_id)
    }

    async fn believes_none_but_the_honest(&self, lies: &[String]) {
        assert_eq!(self.validate(&self.honest()).await.unwrap(), "spiffe://partner.test/web");
        for lie in lies {
            let refused = self.validate(lie).await.expect_err(lie);
            assert_eq!(refused.code(), Code::InvalidArgument, "{lie}");
        }
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k", "typ": "JWT"})
}

fn claims() -> Value {
    let now = SystemClock.now().duration_since(std::time::UNIX_EPOCH).unwrap();
    json!({"sub": "spiffe://partner.test/web", "aud": ["ledger"], "exp": (now + Duration::from_secs(300)).as_secs()})
}

/// Defences: `Header::choose` and `PublicKey::verifies` take the algorithm from the key. If both take it from the
/// header, "none" over a true signature is valid. If `verifies` returns early, a token without a signature is valid.
#[tokio::test(flavor = "multi_thread")]
async fn attack_92_a_token_unsigned_or_of_another_algorithm_is_refused() {
    let node = Federation::start();
    let (honest, claims) = (node.honest(), encoded(claims().to_string()));
    let mut lies = vec![format!("{}.", honest.rsplit_once('.').unwrap().0)];
    for algorithm in ["none", "None", "", "HS256", "ES384", "RS256", "PS256", "EdDSA"] {
        let header = encoded(json!({"alg": algorithm, "kid": "k", "typ": "JWT"}).to_string());
        lies.push(format!("{header}.{claims}."));
        lies.push(node.asking("alg", algorithm.into()));
        let public = hmac::Key::new(hmac::HMAC_SHA256, node.partner.public_key().as_ref());
        let tag = hmac::sign(&public, format!("{header}.{claims}").as_bytes());
        lies.push(format!("{header}.{claims}.{}", encoded(tag)));
    }
    node.believes_none_but_the_honest(&lies).await;
}

/// Defences: `Header::read` accepts three header names; `Header::choose` compares the `kid` with the keys of the
/// bundle. If the first accepts any name, a token with its own `jwk` is valid. If the second takes the first key, a
/// token with the `kid` "../../k" is valid.
#[tokio::test(flavor = "multi_thread")]
async fn attack_93_a_header_that_brings_or_names_its_own_key_is_refused() {
    let node = Federation::start();
    let (x, y) = node.partner.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)});
    let web = Value::from("https://127.0.0.1:1/keys");
    let mut lies: Vec<_> = ["../../k", "", "K", "k\0"].into_iter().map(|kid| node.asking("kid", kid.into())).collect();
    lies.push(node.asking("kid", "k".repeat(10_000).into()));
    for (name, value) in
        [("jwk", jwk), ("jku", web.clone()), ("x5u", web), ("x5c", json!(["AA=="])), ("crit", json!(["exp"]))]
    {
        lies.push(node.asking(name, value));
    }
    node.believes_none_but_the_honest(&lies).await;
}

/// Defences: `check_times`, `check_audience` and `json::object`. If the first returns early, a token without `exp` is
/// valid; if the second does, one without `aud`; if the last accepts a name twice, one with two `exp`. If `time` reads
/// any other type as the end of time, a string as `exp` is valid.
#[tokio::test(flavor = "multi_thread")]
async fn attack_94_a_claim_mistyped_repeated_or_missing_is_refused() {
    let node = Federation::start();
    let mut lies: Vec<_> = ["exp", "aud", "sub"].into_iter().map(|name| node.without_claim(name)).collect();
    for late in
        [json!("9999999999"), json!(null), json!(true), json!(-1), json!([9_999_999_999_u64]), json!(1), json!(1e300)]
    {
        lies.push(node.with_claim("exp", late));
    }
    for audience in [json!("other"), json!([]), json!({"ledger": 1}), json!(["ledger", 1])] {
        lies.push(node.with_claim("aud", audience));
    }
    for subject in [json!(["spiffe://partner.test/web"]), json!("spiffe://partner.test/x/../web"), json!(7)] {
        lies.push(node.with_claim("sub", subject));
    }
    let twice = claims().to_string().replacen('{', "{\"exp\":1,", 1);
    lies.push(node.signed(&header().to_string(), &twice));
    let twice = header().to_string().replacen('{', "{\"alg\":\"none\",", 1);
    lies.push(node.signed(&twice, &claims().to_string()));
    node.believes_none_but_the_honest(&lies).await;
}

/// Defence: `VisibleBundles::bundle_of` returns the bundle of the subject's trust domain and no other. If it falls back
/// to the partner's bundle, a token of the partner for `unknown.test` is valid.
#[tokio::test(flavor = "multi_thread")]
async fn attack_95_a_key_of_one_trust_domain_validates_no_token_of_another() {
    let node = Federation::start();
    let own = &tokens(&node.daemon, vec!["ledger".to_owned()], "").await.unwrap()[0][1];
    assert_eq!(node.validate(own).await.unwrap(), "spiffe://example.org/me");
    let lies = ["spiffe://example.org/me", "spiffe://unknown.test/web"].map(|id| node.with_claim("sub", id.into()));
    node.believes_none_but_the_honest(&lies).await;
    let [head, body, signature]: [&str; 3] = own.split('.').collect::<Vec<_>>().try_into().unwrap();
    let claims = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    let moved = encoded(claims.replace("example.org", "partner.test"));
    node.believes_none_but_the_honest(&[format!("{head}.{moved}.{signature}")]).await;
}
