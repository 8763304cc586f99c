//! The host names of the admin listener. A web page can let its own name resolve to any address
//! (DNS rebinding), so that a visitor's browser takes the listener for a part of the page. But the
//! browser still sends the page's name in `Host`.

use std::net::IpAddr;

use actix_web::http::{
    header::{HOST, HeaderMap, HeaderName, ORIGIN},
    uri::{Authority, Uri},
};

use super::problem::Problem;

/// <https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Accepted host names, in addition to IP addresses and `localhost`: those cannot be the name of a
/// foreign page.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    listed: Box<[String]>,
}

impl Hosts {
    pub(super) fn new(listed: &[String]) -> Self {
        Self { listed: listed.into() }
    }

    /// Refuses a request for another host, or from a web page of another host. `target` is the
    /// authority in the request line, if there is one.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        target: Option<&Authority>,
    ) -> Result<(), Problem> {
        let mut hosts = headers.get_all(HOST);
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                host.to_str().ok().and_then(|host| host.parse::<Authority>().ok())
            }
            (Some(_), Some(_)) | (None, _) => None,
        };
        let host = host.filter(|host| self.goes_by(host)).ok_or_else(Problem::misdirected)?;
        if target.is_some_and(|target| !self.goes_by(target)) {
            return Err(Problem::misdirected());
        }
        let is_own = match headers.get(ORIGIN) {
            Some(origin) => origin.to_str().is_ok_and(|origin| self.is_own(origin, &host)),
            // Such as an image or a link in a page of another host: browsers do not send `Origin`
            // with every request.
            None => headers
                .get(SEC_FETCH_SITE)
                .is_none_or(|site| site == "same-origin" || site == "none"),
        };
        if is_own { Ok(()) } else { Err(Problem::foreign_origin()) }
    }

    fn goes_by(&self, authority: &Authority) -> bool {
        let host = authority.host();
        // Refuses user names and invalid ports, which the parser lets through.
        let is_plain = authority.as_str() == host
            || authority.as_str().starts_with(host) && authority.port_u16().is_some();
        is_plain
            && (is_address(host)
                || without_dot(host).eq_ignore_ascii_case("localhost")
                || self.is_listed(host))
    }

    fn is_listed(&self, host: &str) -> bool {
        self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(without_dot(host)))
    }

    /// Whether a page of `origin` is one of ours: of the host that the request is for, or of a
    /// listed one.
    fn is_own(&self, origin: &str, host: &Authority) -> bool {
        // `null`, the origin of pages without one, has no scheme.
        let Ok(origin) = origin.parse::<Uri>() else { return false };
        let (Some(scheme), Some(from)) = (origin.scheme_str(), origin.authority()) else {
            return false;
        };
        let port = |authority: &Authority| {
            authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 })
        };
        let is_same = from.host().eq_ignore_ascii_case(host.host()) && port(from) == port(host);
        is_same || self.is_listed(from.host())
    }
}

fn is_address(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().is_ok()
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn check(headers: &[(HeaderName, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        Hosts::new(&["admin.example".to_owned()])
            .check(&map, None)
            .err()
            .map(|problem| problem.status())
    }

    #[test]
    fn hosts_are_addresses_localhost_and_those_listed() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "10.1.2.3:8081",
            "[::1]:8081",
            "[fd00::1]",
            "localhost:8081",
            "LOCALHOST",
            "localhost.",
            "admin.example",
            "Admin.Example:443",
            "admin.example.:443",
        ] {
            assert_eq!(check(&[(HOST, host)]), None, "{host}");
        }
        for host in [
            "",
            "page.example",
            "admin.example.page.example",
            "xadmin.example",
            "localhost.page.example",
            "127.0.0.1.page.example",
            "127.1",
            "0x7f.0.0.1",
            "localhost@page.example",
            "page.example@localhost",
            "localhost:port",
        ] {
            assert_eq!(check(&[(HOST, host)]), Some(421), "{host}");
        }
        assert_eq!(check(&[]), Some(421));
        assert_eq!(check(&[(HOST, "localhost"), (HOST, "localhost")]), Some(421), "two of them");
    }

    #[test]
    fn the_target_counts_as_well() {
        let (mut headers, hosts) = (HeaderMap::new(), Hosts::new(&[]));
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let check = |target: &'static str| {
            hosts.check(&headers, Some(&Authority::from_static(target))).is_ok()
        };
        assert!(check("localhost:8081") && !check("page.example"));
    }

    #[test]
    fn origins_are_the_host_s_own() {
        let from = |host, origin| check(&[(HOST, host), (ORIGIN, origin)]);
        for (host, origin) in [
            ("localhost:8081", "http://localhost:8081"),
            ("127.0.0.1", "http://127.0.0.1"),
            ("127.0.0.1", "https://127.0.0.1:443"),
            ("[::1]:8081", "http://[::1]:8081"),
            ("10.1.2.3:8081", "https://admin.example"),
            ("admin.example", "https://admin.example:8443"),
        ] {
            assert_eq!(from(host, origin), None, "{host} {origin}");
        }
        for (host, origin) in [
            ("localhost:8081", "http://page.example"),
            ("localhost:8081", "http://localhost:3000"),
            ("localhost:8081", "http://127.0.0.1:8081"),
            ("127.0.0.1", "https://127.0.0.1:80"),
            ("localhost:8081", "null"),
            ("localhost:8081", ""),
        ] {
            assert_eq!(from(host, origin), Some(403), "{host} {origin}");
        }
    }

    #[test]
    fn without_an_origin_the_site_counts() {
        let from = |site| check(&[(HOST, "localhost:8081"), (SEC_FETCH_SITE, site)]);
        assert_eq!([from("none"), from("same-origin")], [None, None]);
        assert_eq!([from("cross-site"), from("same-site"), from("else")], [Some(403); 3]);
    }
}
