//! Outgoing requests: directly, or through a proxy.

use std::fmt;

use reqwest::{NoProxy, Proxy};

use super::fetch::FetcherError;
use crate::config::jwks::{JwksProxy, ProxyUrl};

/// The proxies and their host names. These hosts may have private addresses without being listed in
/// `jwks.allowed_hosts`.
#[derive(Clone, Default)]
pub(super) struct Egress {
    pub(super) proxies: Vec<Proxy>,
    /// In lowercase. Empty if every connection is direct.
    pub(super) hosts: Vec<String>,
    shown: Vec<String>,
}

impl Egress {
    /// Follows the setting. `variable` returns the value of an environment variable.
    pub(super) fn new(
        setting: Option<&JwksProxy>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, FetcherError> {
        let mut egress = Self::default();
        match setting {
            None => {}
            Some(JwksProxy::Url(url)) => egress.add(url, Proxy::all(url.expose())?),
            Some(JwksProxy::Environment) => {
                // Uppercase names take precedence, as in other clients that read both.
                let first = |names: [&'static str; 4]| {
                    names.into_iter().find_map(|name| {
                        variable(name).filter(|value| !value.is_empty()).map(|value| (name, value))
                    })
                };
                let exceptions = first(["NO_PROXY", "no_proxy", "", ""])
                    .and_then(|(_, hosts)| NoProxy::from_string(&hosts));
                if let Some((name, value)) =
                    first(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
                {
                    let url = parse(name, &value)?;
                    egress.add(&url, Proxy::https(url.expose())?.no_proxy(exceptions.clone()));
                }
                if let Some((name, value)) =
                    first(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
                {
                    let url = parse(name, &value)?;
                    egress.add(&url, Proxy::http(url.expose())?.no_proxy(exceptions));
                }
            }
        }
        Ok(egress)
    }

    fn add(&mut self, url: &ProxyUrl, proxy: Proxy) {
        self.proxies.push(proxy);
        self.hosts.push(url.host().to_owned());
        self.shown.push(url.to_string());
        self.hosts.dedup();
        self.shown.dedup();
    }

    /// The proxies, without passwords; `None` if every connection is direct.
    pub(super) fn shown(&self) -> Option<String> {
        (!self.shown.is_empty()).then(|| self.shown.join(" and "))
    }

    /// The description printed by `config check`.
    pub(super) fn described(&self, setting: Option<&JwksProxy>) -> Option<String> {
        match (setting, self.shown.as_slice()) {
            (None, _) => None,
            (Some(_), []) => Some("no proxy: there is none in the environment".to_owned()),
            (Some(_), shown) => Some(format!(
                "through the proxy {}, which looks hosts up: their names are checked, their addresses are not",
                shown.join(" and ")
            )),
        }
    }
}

/// Leaves out passwords, which `reqwest::Proxy` prints.
impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("proxies", &self.shown).finish_non_exhaustive()
    }
}

/// Parses the value of an environment variable, which may lack the scheme.
fn parse(name: &'static str, value: &str) -> Result<ProxyUrl, FetcherError> {
    let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    url.parse().map_err(|expected| FetcherError::ProxyVariable { name, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Egress, FetcherError> {
        Egress::new(Some(&JwksProxy::Environment), |name| {
            variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_counts_only_if_it_is_asked_for() {
        let egress = Egress::new(None, |_| Some("http://proxy.example:3128".to_owned())).unwrap();
        assert!(egress.proxies.is_empty() && egress.hosts.is_empty());
    }

    #[test]
    fn variables_are_read_as_other_clients_read_them() {
        for (variables, hosts) in [
            (&[][..], &[][..]),
            (&[("HTTPS_PROXY", "http://proxy.example:3128")], &["proxy.example"]),
            (&[("https_proxy", "proxy.example:3128")], &["proxy.example"]),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://Proxy.example")], &["proxy.example"]),
            (&[("ALL_PROXY", "http://user:pw@proxy.example")], &["proxy.example"]),
            (
                &[("HTTPS_PROXY", "http://one.example"), ("HTTP_PROXY", "http://two.example")],
                &["one.example", "two.example"],
            ),
            (&[("NO_PROXY", "keys.example")], &[]),
        ] {
            let egress = from(variables).unwrap();
            assert_eq!(egress.hosts, hosts, "{variables:?}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_without_its_value() {
        for value in [
            "socks5://hunter2@proxy.example",
            "http://user:hunter2@proxy.example/path",
            "hunter2@",
            "http://[hunter2",
        ] {
            let error = from(&[("HTTPS_PROXY", value)]).unwrap_err().to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_described() {
        let egress = from(&[("HTTPS_PROXY", "http://user:hunter2@proxy.example:3128")]).unwrap();
        let described = egress.described(Some(&JwksProxy::Environment)).unwrap();
        assert!(
            described.contains("http://proxy.example:3128") && !described.contains("hunter2"),
            "{described}"
        );
        assert!(!format!("{egress:?}").contains("hunter2"), "{egress:?}");
    }
}
