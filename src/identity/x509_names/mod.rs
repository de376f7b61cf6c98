//! The names that an X509-SVID has beside its SPIFFE ID: DNS names, and the subject.

pub mod dns_name;
pub mod subject;

pub use dns_name::is_dns_name;
pub use subject::InvalidSubject;
pub use subject::SubjectPrefix;
