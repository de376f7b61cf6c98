//! The nouns of the SPIFFE standards: trust domains, SPIFFE IDs, SVIDs, bundles and keys. Every type here is valid by
//! construction; text and bytes become one of them by parsing, once. Knows nothing of processes, entries or sockets.

pub mod bundle;
pub mod jose;
pub mod key_pair;
pub mod private_key;
pub mod rustls_verifier;
pub mod spiffe_id;
pub mod svid;
pub mod trust_domain;
pub mod x509_names;
pub mod x509_profile;
pub mod x509_verify;

pub use bundle::Bundle;
pub use bundle::JwtAuthority;
pub use key_pair::KeyType;
pub use key_pair::SubjectKey;
pub use private_key::PrivateKey;
pub use spiffe_id::InvalidSpiffeId;
pub use spiffe_id::SpiffeId;
pub use svid::JwtSvid;
pub use svid::X509Svid;
pub use trust_domain::InvalidTrustDomain;
pub use trust_domain::TrustDomain;
pub use x509_names::InvalidSubject;
pub use x509_names::SubjectPrefix;
