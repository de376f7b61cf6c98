//! Which version of an entry a message shows.

use bonafide::endpoints::workload_api::proto::X509svidResponse;
use x509_parser::extensions::GeneralName;

/// The parts of a message that show which version of the entry it has. The hint is not signed, the DNS name is.
#[derive(PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) hint: String,
    pub(crate) dns: String,
}

impl Mark {
    pub(crate) fn in_message(message: &X509svidResponse) -> Self {
        let svid = message.svids.first().cloned().unwrap_or_default();
        let (_, certificate) = x509_parser::parse_x509_certificate(&svid.x509_svid).expect("a certificate");
        let names = certificate.subject_alternative_name().ok().flatten();
        let dns = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(dns) => Some((*dns).to_owned()),
                _ => None,
            })
        });
        Self { hint: svid.hint, dns: dns.unwrap_or_default() }
    }

    /// Its line, as a follower prints it.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.hint, self.dns)
    }

    pub(crate) fn of_line(line: &str) -> Self {
        let (hint, dns) = line.split_once(' ').unwrap_or_default();
        Self { hint: hint.to_owned(), dns: dns.to_owned() }
    }
}
