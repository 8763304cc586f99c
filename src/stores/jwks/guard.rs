//! Restricts which hosts are fetched from. A JWKS URL is data: it must not make this service
//! connect to hosts inside its own network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config::jwks::JwksSettings;

/// Decides which URLs and addresses are allowed.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    allow_http: bool,
    /// In lowercase. If empty, any host with public addresses is allowed.
    allowed_hosts: Arc<[String]>,
    /// Hosts of proxies, in lowercase. If there is one, it resolves hosts, so addresses are not
    /// checked here.
    proxies: Arc<[String]>,
}

/// Why a URL is not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Forbidden {
    /// Neither `https:` nor, if allowed, `http:`.
    #[error("only https URLs are fetched (`jwks.allow_http` allows http)")]
    Scheme,
    /// It carries a username or password.
    #[error("a JWKS URL may not carry credentials")]
    Credentials,
    /// The host is not in `jwks.allowed_hosts`.
    #[error("the host {0} is not listed in `jwks.allowed_hosts`")]
    Host(String),
    /// A proxy would resolve the host, which has no public name.
    #[error(
        "the host {0} has no public name, and where `jwks.proxy` leads to is not seen; list the host in `jwks.allowed_hosts` to allow it"
    )]
    Name(String),
    /// The host has a private, loopback, link-local or other special address.
    #[error(
        "the host {host} has the address {address}, which is not a public one; list the host in `jwks.allowed_hosts` to allow it"
    )]
    Address {
        /// Name of the host.
        host: String,
        /// The address it resolves to.
        address: IpAddr,
    },
}

impl Guard {
    /// Creates a guard for `settings` and the hosts of the proxies.
    pub(super) fn new(settings: &JwksSettings, proxies: &[String]) -> Self {
        let allowed_hosts =
            settings.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { allow_http: settings.allow_http, allowed_hosts, proxies: proxies.into() }
    }

    /// Checks what the URL itself shows. A host given as an IP address is never resolved, so it is
    /// checked here.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        let is_allowed = url.scheme() == "https" || (self.allow_http && url.scheme() == "http");
        if !is_allowed {
            return Err(Forbidden::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::Credentials);
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let is_listed = self.is_listed(&host);
        if !self.allowed_hosts.is_empty() && !is_listed {
            return Err(Forbidden::Host(host));
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match address {
            Some(address) if !is_listed && !is_public(address) => {
                Err(Forbidden::Address { host, address })
            }
            None if !is_listed && self.is_hidden(&host) => Err(Forbidden::Name(host)),
            _ => Ok(()),
        }
    }

    /// Whether a proxy would be asked for a host without a public name. The address behind a public
    /// name cannot be checked either: the proxy has to refuse private ones.
    fn is_hidden(&self, host: &str) -> bool {
        !self.proxies.is_empty() && (!is_public_name(host) || self.is_proxy(host))
    }

    fn is_proxy(&self, host: &str) -> bool {
        self.proxies.iter().any(|proxy| proxy == host)
    }

    fn is_listed(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|listed| listed == host)
    }
}

/// Resolves names for the client, which connects only to the addresses returned here. So DNS
/// answers that change between the check and the connection have no effect.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            if !guard.is_listed(&host)
                && !guard.is_proxy(&host)
                && let Some(private) =
                    addresses.iter().map(SocketAddr::ip).find(|address| !is_public(*address))
            {
                return Err(Forbidden::Address { host, address: private }.into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

/// Domains that are not on the public internet: RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`,
/// and those commonly used in private networks.
const LOCAL_DOMAINS: [&str; 9] =
    ["localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "arpa"];

fn is_public_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit_once('.').is_some_and(|(_, top)| !LOCAL_DOMAINS.contains(&top))
}

/// Whether an address is public: not private, loopback, link-local (used for cloud metadata),
/// shared, multicast, reserved or for documentation, and not such an IPv4 address embedded in an
/// IPv6 one.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            embedded_v4(address).map_or_else(|| is_public_v6(address), is_public_v4)
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

/// Global unicast is `2000::/3`; within it, documentation and benchmarking addresses are not
/// public.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let is_global = segments[0] & 0xe000 == 0x2000;
    let is_documentation = segments[0] == 0x2001
        && (segments[1] == 0x0db8 || segments[1] == 0x0002)
        || segments[0] == 0x3fff;
    is_global && !is_documentation
}

/// The IPv4 address in an IPv4-mapped, IPv4-compatible, NAT64 (RFC 6052) or 6to4 (RFC 3056)
/// address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow_http: bool, hosts: &[&str]) -> Guard {
        Guard {
            allow_http,
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            proxies: Arc::default(),
        }
    }

    #[test]
    fn only_public_addresses_are_public() {
        for address in
            ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1", "64:ff9b::101:101"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "192.0.0.8",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn urls_are_checked_before_anything_is_resolved() {
        let check = |guard: &Guard, url: &str| guard.check_url(&Url::parse(url).unwrap());
        let strict = guard(false, &[]);
        assert_eq!(check(&strict, "https://keys.example/jwks"), Ok(()));
        assert_eq!(check(&strict, "http://keys.example/jwks"), Err(Forbidden::Scheme));
        assert_eq!(check(&strict, "file:///etc/passwd"), Err(Forbidden::Scheme));
        assert_eq!(check(&strict, "https://user:pw@keys.example/"), Err(Forbidden::Credentials));
        for url in [
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::ffff:10.0.0.1]/",
        ] {
            assert!(matches!(check(&strict, url), Err(Forbidden::Address { .. })), "{url}");
        }
        let listed = guard(true, &["keys.example", "127.0.0.1", "::1"]);
        assert_eq!(check(&listed, "http://KEYS.example/jwks"), Ok(()));
        assert_eq!(check(&listed, "http://127.0.0.1:8080/jwks"), Ok(()));
        assert_eq!(check(&listed, "http://[::1]:8080/jwks"), Ok(()));
        assert!(matches!(check(&listed, "https://other.example/"), Err(Forbidden::Host(_))));
    }

    #[test]
    fn behind_a_proxy_names_are_checked() {
        let behind = Guard {
            proxies: ["proxy.example".to_owned()].into(),
            ..guard(false, &["keys.internal"])
        };
        let open = Guard { allowed_hosts: Arc::default(), ..behind.clone() };
        let check = |guard: &Guard, host: &str| {
            guard.check_url(&Url::parse(&format!("https://{host}/")).unwrap())
        };
        for host in ["keys.example", "keys.example.", "a.b.keys.example", "1.1.1.1"] {
            assert_eq!(check(&open, host), Ok(()), "{host}");
        }
        for host in [
            "localhost",
            "localhost.",
            "keys",
            "keys.local",
            "keys.internal",
            "KEYS.svc.cluster.local",
            "proxy.example",
        ] {
            assert!(matches!(check(&open, host), Err(Forbidden::Name(_))), "{host}");
        }
        assert!(matches!(check(&open, "10.0.0.1"), Err(Forbidden::Address { .. })));
        assert_eq!(check(&behind, "keys.internal"), Ok(()), "it is listed");
        assert_eq!(
            check(&guard(false, &[]), "keys.internal"),
            Ok(()),
            "its address is checked when it is looked up"
        );
    }

    #[tokio::test]
    async fn a_proxy_s_own_host_may_be_a_private_one() {
        let behind = Guard { proxies: ["localhost".to_owned()].into(), ..guard(false, &[]) };
        assert!(behind.resolve("localhost".parse().unwrap()).await.is_ok());
        assert!(guard(false, &[]).resolve("localhost".parse().unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn names_of_private_addresses_are_not_resolved() {
        let error = guard(false, &[])
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .expect("localhost is loopback");
        assert!(matches!(error.downcast_ref(), Some(Forbidden::Address { .. })), "{error}");
        assert!(guard(false, &["localhost"]).resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
