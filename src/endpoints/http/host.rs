//! Whom a request on a loopback door means: this machine, or a name of somebody else's that leads here.

use std::net::IpAddr;

use http::Version;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::endpoints::http) enum NotForUs {
    /// None where one is mandatory, two, or one that is none.
    #[error("the request needs one Host header with a host in it\n")]
    NoHost,
    /// Neither a loopback address nor its name.
    #[error("this door answers only requests whose Host is localhost or a loopback address\n")]
    AnotherHost,
}

/// Checks that a request means this machine.
///
/// SECURITY: a web page can let its own name lead to 127.0.0.1 and then read this door from a browser on this machine (DNS
/// rebinding). The browser still sends the page's name.
pub(in crate::endpoints::http) fn check(request: &Parts) -> Result<(), NotForUs> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            Some(host.ok_or(NotForUs::NoHost)?)
        }
        (None, _) if request.version == Version::HTTP_10 => None, // no browser sends this
        _ => return Err(NotForUs::NoHost),
    };
    let all_are_ours = named.iter().chain(request.uri.authority()).all(|authority| is_loopback(authority.host()));
    if all_are_ours { Ok(()) } else { Err(NotForUs::AnotherHost) }
}

/// SPEC: RFC 6761 section 6.3: the name localhost always is a loopback address.
fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, version: Version, hosts: &[&str]) -> Parts {
        let mut request = http::Request::get(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_names_this_machine_or_is_refused() {
        let cases = [
            (vec!["localhost"], Ok(())),
            (vec!["LOCALHOST.:8090"], Ok(())),
            (vec!["127.0.0.1:8090"], Ok(())),
            (vec!["127.9.9.9"], Ok(())),
            (vec!["[::1]:8090"], Ok(())),
            (vec!["rebound.example"], Err(NotForUs::AnotherHost)),
            (vec!["rebound.example:8090"], Err(NotForUs::AnotherHost)),
            (vec!["localhost.example"], Err(NotForUs::AnotherHost)),
            (vec!["127.0.0.1.example"], Err(NotForUs::AnotherHost)),
            (vec!["192.0.2.1"], Err(NotForUs::AnotherHost)),
            (vec!["0.0.0.0"], Err(NotForUs::AnotherHost)),
            (vec!["[2001:db8::1]"], Err(NotForUs::AnotherHost)),
            (vec![], Err(NotForUs::NoHost)),
            (vec![""], Err(NotForUs::NoHost)),
            (vec!["a b"], Err(NotForUs::NoHost)),
            (vec!["localhost", "localhost"], Err(NotForUs::NoHost)),
        ];
        for (hosts, expected) in cases {
            assert_eq!(check(&request("/ready", Version::HTTP_11, &hosts)), expected, "{hosts:?}");
        }
    }

    #[test]
    fn a_whole_uri_names_the_host_too_and_an_old_client_need_not() {
        let rebound = request("http://rebound.example/ready", Version::HTTP_11, &["localhost"]);
        assert_eq!(check(&rebound), Err(NotForUs::AnotherHost));
        assert_eq!(check(&request("http://localhost/ready", Version::HTTP_11, &["localhost"])), Ok(()));
        assert_eq!(check(&request("/ready", Version::HTTP_10, &[])), Ok(()));
    }
}
