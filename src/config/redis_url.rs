//! The URL of Redis: one server, a cluster, or a master that sentinels watch.
//!
//! ```text
//! redis://[USER:PASSWORD@]HOST[:PORT][/DB]
//! redis+unix:PATH[?db=DB&user=USER&pass=PASSWORD]
//! redis+cluster://[USER:PASSWORD@]HOST[:PORT],...
//! redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../SERVICE[/DB][?sentinel_username=USER&sentinel_password=PASSWORD]
//! ```
//!
//! `rediss`, `rediss+cluster` and `rediss+sentinel` are the same over TLS. Credentials before the
//! hosts are those of Redis itself, on every server. Any character except letters, digits and
//! `-._~` may be percent-encoded; in credentials, `/`, `?`, `#`, `@`, `:`, `,` and `%` must be. `+`
//! is a literal plus. Each form also takes `protocol=resp2` (the default) or `protocol=resp3`.

use std::{fmt, net::Ipv6Addr, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;

use super::Secret;

/// Default port of Redis.
const PORT: u16 = 6379;
/// Default port of sentinels.
const SENTINEL_PORT: u16 = 26_379;

/// The servers of Redis, and how to log in.
#[derive(Clone, Debug)]
pub struct RedisUrl {
    /// One server, or several.
    pub servers: RedisServers,
    /// Whether all connections, those to sentinels included, use TLS.
    pub is_tls: bool,
    /// Credentials for Redis itself.
    pub login: Login,
    /// Number of the database that `SELECT` chooses.
    pub database: u32,
    /// Whether connections use RESP3 instead of RESP2.
    pub is_resp3: bool,
}

/// The servers that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single(RedisAddress),
    /// Some nodes of a cluster, at least one.
    Cluster(Vec<RedisAddress>),
    /// Sentinels, at least one, that watch a master.
    Sentinel {
        /// The addresses of the sentinels.
        sentinels: Vec<RedisAddress>,
        /// The name under which the sentinels watch the master.
        service: String,
        /// Credentials for the sentinels.
        login: Login,
    },
}

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedisAddress {
    /// A name or an IP address, without brackets, and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Credentials of a connection. Without a password, it does not log in.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// `None` for the default user.
    pub username: Option<String>,
    /// Redacted in `Debug`; `None` if the connection does not log in.
    pub password: Option<Secret>,
}

/// Why a text is not a Redis URL. Contains no part of the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedisUrl {
    /// Another scheme, or no scheme.
    #[error(
        "not a nonce store; expected memory:, redis://HOST:PORT, rediss://HOST:PORT, redis+unix:PATH, redis+cluster://A,B,C, \
         redis+sentinel://A,B,C/SERVICE, or one of the last two with rediss"
    )]
    Scheme,
    /// No host, or one of several is empty.
    #[error("expected a host, or several with commas")]
    NoHost,
    /// A host with characters that are not allowed in names.
    #[error(
        "a host has a character that no host has; expected a name, an IPv4 address, or an IPv6 address in brackets"
    )]
    Host,
    /// An IPv6 address without brackets, or brackets that contain something else.
    #[error("expected IPv6 addresses in brackets, such as [2001:db8::1]:6379")]
    Ipv6,
    /// A port that is not a port number.
    #[error(
        "expected a port from 1 to 65535 behind the host; in a password, `:`, `@`, `/`, `?` and `#` have to be percent-encoded"
    )]
    Port,
    /// Credentials on a host other than the first.
    #[error(
        "expected credentials once, before the first host; in a password, `@` is written %40 and `,` %2C"
    )]
    Credentials,
    /// A username without a password.
    #[error("expected a password with the username")]
    NoPassword,
    /// A wrong or incomplete percent escape, or one that does not decode to UTF-8.
    #[error("expected UTF-8 in percent-encoding; `%` itself is written %25")]
    Encoding,
    /// A path that is not a database number.
    #[error("expected the number of a database behind the `/`")]
    Database,
    /// Sentinels without a service name.
    #[error("expected /SERVICE behind the sentinels: the name under which they watch the master")]
    NoService,
    /// A parameter that this form does not have, or that occurs twice.
    #[error(
        "unknown or repeated parameter; expected `protocol`, with redis+unix also `db`, `user` and `pass`, with redis+sentinel also \
         `sentinel_username` and `sentinel_password`"
    )]
    Parameter,
    /// A `protocol` other than `resp2` and `resp3`.
    #[error("expected `protocol` to be resp2 or resp3")]
    Protocol,
    /// A fragment, such as `#insecure`.
    #[error(
        "expected no `#`: certificates are always verified, by `nonce.ca_file` if need be; in a password, `#` is written %23"
    )]
    Fragment,
    /// A Unix socket without an absolute path.
    #[error(
        "expected an absolute path behind redis+unix:, such as redis+unix:/run/redis/redis.sock"
    )]
    Path,
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = url.split_once(':').ok_or(BadRedisUrl::Scheme)?;
        let (is_tls, form) = match scheme {
            "redis" => (false, Form::Single),
            "rediss" => (true, Form::Single),
            "redis+unix" => (false, Form::Unix),
            "redis+cluster" => (false, Form::Cluster),
            "rediss+cluster" => (true, Form::Cluster),
            "redis+sentinel" => (false, Form::Sentinel),
            "rediss+sentinel" => (true, Form::Sentinel),
            _ => return Err(BadRedisUrl::Scheme),
        };
        if rest.contains('#') {
            return Err(BadRedisUrl::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parameters = Parameters::parse(query)?;
        let is_resp3 = match parameters.take("protocol").as_deref() {
            None | Some("2" | "resp2") => false,
            Some("3" | "resp3") => true,
            Some(_) => return Err(BadRedisUrl::Protocol),
        };
        let url = if form == Form::Unix {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let path = decode(path.strip_prefix("localhost").unwrap_or(path))?;
            if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
                return Err(BadRedisUrl::Path);
            }
            let login = Login::new(parameters.take("user"), parameters.take("pass"))?;
            let database = database(parameters.take("db").as_deref())?;
            Self {
                servers: RedisServers::Single(RedisAddress::Unix(path.into())),
                is_tls,
                login,
                database,
                is_resp3,
            }
        } else {
            let rest = rest.strip_prefix("//").ok_or(BadRedisUrl::Scheme)?;
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (login, hosts) = match authority.rsplit_once('@') {
                Some((login, hosts)) => (Login::parse(login, form)?, hosts),
                None => (Login::default(), authority),
            };
            let (servers, path) = form.servers(hosts, path, &mut parameters)?;
            Self {
                servers,
                is_tls,
                login,
                database: database(Some(path).filter(|path| !path.is_empty()))?,
                is_resp3,
            }
        };
        if parameters.0.is_empty() { Ok(url) } else { Err(BadRedisUrl::Parameter) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Unix,
    Cluster,
    Sentinel,
}

impl Form {
    /// The servers, and the rest of the path.
    fn servers<'a>(
        self,
        hosts: &str,
        path: &'a str,
        parameters: &mut Parameters,
    ) -> Result<(RedisServers, &'a str), BadRedisUrl> {
        let addresses =
            |port| hosts.split(',').map(|host| address(host, port)).collect::<Result<Vec<_>, _>>();
        Ok(match self {
            Self::Single | Self::Unix => (RedisServers::Single(address(hosts, PORT)?), path),
            Self::Cluster => (RedisServers::Cluster(addresses(PORT)?), path),
            Self::Sentinel => {
                let (service, path) = path.split_once('/').unwrap_or((path, ""));
                let service = Some(decode(service)?)
                    .filter(|service| !service.is_empty())
                    .ok_or(BadRedisUrl::NoService)?;
                let login = Login::new(
                    parameters.take("sentinel_username"),
                    parameters.take("sentinel_password"),
                )?;
                (
                    RedisServers::Sentinel { sentinels: addresses(SENTINEL_PORT)?, service, login },
                    path,
                )
            }
        })
    }
}

impl Login {
    fn new(username: Option<String>, password: Option<String>) -> Result<Self, BadRedisUrl> {
        let username = username.filter(|username| !username.is_empty());
        if username.is_some() && password.is_none() {
            return Err(BadRedisUrl::NoPassword);
        }
        Ok(Self {
            username,
            password: password.filter(|password| !password.is_empty()).map(Secret::new),
        })
    }

    fn parse(text: &str, form: Form) -> Result<Self, BadRedisUrl> {
        // With a single host there is no doubt what belongs to the password.
        if form != Form::Single && text.contains(['@', ',']) {
            return Err(BadRedisUrl::Credentials);
        }
        let (username, password) = match text.split_once(':') {
            Some((username, password)) => (username, Some(decode(password)?)),
            None => (text, None),
        };
        Self::new(Some(decode(username)?), password)
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        let exposed =
            |login: &Self| login.password.as_ref().map(|password| password.expose().to_owned());
        self.username == other.username && exposed(self) == exposed(other)
    }
}

impl Eq for Login {}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The decoded parameters after the `?`. Each consumer takes its own out of the list.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: &str) -> Result<Self, BadRedisUrl> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(BadRedisUrl::Parameter)?;
            let (name, value) = (decode(name)?, decode(value)?);
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(BadRedisUrl::Parameter);
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(place).1)
    }
}

fn address(text: &str, default_port: u16) -> Result<RedisAddress, BadRedisUrl> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(BadRedisUrl::Ipv6)?;
        let address: Ipv6Addr = host.parse().map_err(|_| BadRedisUrl::Ipv6)?;
        let port = if rest.is_empty() {
            None
        } else {
            Some(rest.strip_prefix(':').ok_or(BadRedisUrl::Ipv6)?)
        };
        (address.to_string(), port)
    } else {
        let (host, port) =
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if host.is_empty() {
            return Err(BadRedisUrl::NoHost);
        }
        if port.is_some_and(|port| port.contains(':')) && text.parse::<Ipv6Addr>().is_ok() {
            return Err(BadRedisUrl::Ipv6);
        }
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            return Err(BadRedisUrl::Host);
        }
        (host.to_owned(), port)
    };
    let port = match port {
        None | Some("") => default_port,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port > 0).ok_or(BadRedisUrl::Port)?
        }
        Some(_) => return Err(BadRedisUrl::Port),
    };
    Ok(RedisAddress::Tcp(host, port))
}

fn database(number: Option<&str>) -> Result<u32, BadRedisUrl> {
    let Some(number) = number else { return Ok(0) };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadRedisUrl::Database);
    }
    number.parse().map_err(|_| BadRedisUrl::Database)
}

fn decode(text: &str) -> Result<String, BadRedisUrl> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let is_escape = |place: usize| is_digit(bytes.get(place + 1)) && is_digit(bytes.get(place + 2));
    if text.bytes().enumerate().any(|(place, byte)| byte == b'%' && !is_escape(place)) {
        return Err(BadRedisUrl::Encoding);
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| BadRedisUrl::Encoding)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn parsed(url: &str) -> RedisUrl {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn tcp(host: &str, port: u16) -> RedisAddress {
        RedisAddress::Tcp(host.to_owned(), port)
    }

    fn login(username: Option<&str>, password: &str) -> Login {
        Login { username: username.map(str::to_owned), password: Some(Secret::new(password)) }
    }

    #[test]
    fn one_server() {
        let url = parsed("redis://example");
        assert_eq!(url.servers, RedisServers::Single(tcp("example", 6379)));
        assert_eq!(
            (url.is_tls, url.login, url.database, url.is_resp3),
            (false, Login::default(), 0, false)
        );
        let url = parsed("rediss://user:pass:w%40rd@[2001:DB8::1]:7000/3?protocol=resp3");
        assert_eq!(url.servers, RedisServers::Single(tcp("2001:db8::1", 7000)));
        assert_eq!(
            (url.is_tls, url.login, url.database, url.is_resp3),
            (true, login(Some("user"), "pass:w@rd"), 3, true)
        );
        assert_eq!(parsed("redis://:p@ss+word@h:1/").login, login(None, "p@ss+word"));
    }

    #[test]
    fn a_socket() {
        let path = |path: &str| RedisServers::Single(RedisAddress::Unix(path.into()));
        for url in [
            "redis+unix:/run/r%20s.sock",
            "redis+unix:///run/r s.sock",
            "redis+unix://localhost/run/r%20s.sock",
        ] {
            assert_eq!(parsed(url).servers, path("/run/r s.sock"), "{url}");
        }
        let url = parsed("redis+unix:///r.sock?db=2&user=u&pass=p%26q");
        assert_eq!(
            (url.servers, url.login, url.database),
            (path("/r.sock"), login(Some("u"), "p&q"), 2)
        );
    }

    #[test]
    fn several_servers() {
        let url = parsed("rediss+cluster://u:p@a,b:7000,[::1]:7001");
        assert_eq!(
            url.servers,
            RedisServers::Cluster(vec![tcp("a", 6379), tcp("b", 7000), tcp("::1", 7001)])
        );
        assert!(url.is_tls && url.login == login(Some("u"), "p"));
        let url = parsed(
            "redis+sentinel://:p@a,b:1,[::1]/main%2Fone/4?sentinel_password=s&sentinel_username=v",
        );
        let sentinels = vec![tcp("a", 26_379), tcp("b", 1), tcp("::1", 26_379)];
        let service = "main/one".to_owned();
        assert_eq!(
            url.servers,
            RedisServers::Sentinel { sentinels, service, login: login(Some("v"), "s") }
        );
        assert_eq!((url.login, url.database), (login(None, "p"), 4));
        let url = parsed("redis+sentinel://u:p@a/main");
        let RedisServers::Sentinel { login: of_sentinels, .. } = url.servers else { panic!() };
        assert_eq!(of_sentinels, Login::default(), "those before the hosts are Redis' own");
    }

    #[test]
    fn what_is_no_such_url_is_refused_for_its_reason() {
        use BadRedisUrl as Bad;
        for (url, reason) in [
            ("", Bad::Scheme),
            ("redis", Bad::Scheme),
            ("redis:h", Bad::Scheme),
            ("http://h", Bad::Scheme),
            ("rediss+unix:/a", Bad::Scheme),
            ("redis://", Bad::NoHost),
            ("redis://:1", Bad::NoHost),
            ("redis+cluster://a,,b", Bad::NoHost),
            ("redis://a b", Bad::Host),
            ("redis://a,b", Bad::Host),
            ("redis://ü", Bad::Host),
            ("redis://::1", Bad::NoHost),
            ("redis://2001:db8::1", Bad::Ipv6),
            ("redis://[::1", Bad::Ipv6),
            ("redis://[a]", Bad::Ipv6),
            ("redis://[::1]1", Bad::Ipv6),
            ("redis://h:0", Bad::Port),
            ("redis://h:65536", Bad::Port),
            ("redis://h:+1", Bad::Port),
            ("redis://u:p/w@h", Bad::Port),
            ("redis+cluster://u:p@a,u:p@b", Bad::Credentials),
            ("redis+cluster://a,u:p@b", Bad::Credentials),
            ("redis://u@h", Bad::NoPassword),
            ("redis+unix:/s?user=u", Bad::NoPassword),
            ("redis://:p%@h", Bad::Encoding),
            ("redis://:p%+1@h", Bad::Encoding),
            ("redis://:%ff@h", Bad::Encoding),
            ("redis://h/x", Bad::Database),
            ("redis://h/-1", Bad::Database),
            ("redis://h/1/", Bad::Database),
            ("redis+unix:/s?db=x", Bad::Database),
            ("redis+sentinel://a", Bad::NoService),
            ("redis+sentinel://a/", Bad::NoService),
            ("redis+sentinel:///main", Bad::NoHost),
            ("redis://h?db=1", Bad::Parameter),
            ("redis://h?protocol=2&protocol=2", Bad::Parameter),
            ("redis://h?x", Bad::Parameter),
            ("redis://h?protocol=4", Bad::Protocol),
            ("rediss://h#insecure", Bad::Fragment),
            ("redis+unix:s", Bad::Path),
            ("redis+unix:/", Bad::Path),
            ("redis+unix:/a%00b", Bad::Path),
        ] {
            assert_eq!(url.parse::<RedisUrl>().err(), Some(reason), "{url}");
        }
    }

    fn word() -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 1..12)
            .prop_map(|chars| chars.into_iter().collect())
    }

    fn host() -> impl Strategy<Value = (String, String)> {
        prop_oneof![
            "[a-z0-9]([-a-z0-9._]{0,20}[a-z0-9])?".prop_map(|name| (name.clone(), name)),
            any::<u128>().prop_map(|bits| {
                let address = Ipv6Addr::from(bits).to_string();
                (format!("[{address}]"), address)
            }),
        ]
    }

    proptest! {
        /// Parts with arbitrary characters survive the round trip.
        #[test]
        fn a_url_reads_as_it_was_put_together(
            is_tls: bool, is_sentinel: bool, username in proptest::option::of(word()), password in proptest::option::of(word()),
            sentinel_password in proptest::option::of(word()), service in word(), database in proptest::option::of(any::<u32>()),
            hosts in proptest::collection::vec((host(), proptest::option::of(1_u16..)), 1..4),
        ) {
            let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let login = match (&username, &password) {
                (username, Some(password)) => {
                    format!("{}:{}@", escaped(username.as_deref().unwrap_or_default()), escaped(password))
                }
                (_, None) => String::new(),
            };
            let written = |((host, _), port): &((String, String), Option<u16>)| match port {
                Some(port) => format!("{host}:{port}"),
                None => host.clone(),
            };
            let list = hosts.iter().map(written).collect::<Vec<_>>().join(",");
            let (tls, form) = (if is_tls { "s" } else { "" }, if is_sentinel { "sentinel" } else { "cluster" });
            let service_path = if is_sentinel { format!("/{}", escaped(&service)) } else { String::new() };
            let path = service_path + &database.map_or_else(String::new, |database| format!("/{database}"));
            let query = sentinel_password.as_deref().filter(|_| is_sentinel);
            let query = query.map_or_else(String::new, |password| format!("?sentinel_password={}", escaped(password)));
            let url = format!("redis{tls}+{form}://{login}{list}{path}{query}");

            let parsed: RedisUrl = url.parse().unwrap();
            let default = if is_sentinel { SENTINEL_PORT } else { PORT };
            let expected: Vec<_> =
                hosts.iter().map(|((_, host), port)| RedisAddress::Tcp(host.clone(), port.unwrap_or(default))).collect();
            let expected = if is_sentinel {
                let login = Login { username: None, password: sentinel_password.map(Secret::new) };
                RedisServers::Sentinel { sentinels: expected, service, login }
            } else {
                RedisServers::Cluster(expected)
            };
            prop_assert_eq!(parsed.servers, expected);
            let expected = if password.is_some() { Login { username, password: password.map(Secret::new) } } else { Login::default() };
            prop_assert_eq!(parsed.login, expected);
            prop_assert_eq!((parsed.is_tls, parsed.database), (is_tls, database.unwrap_or(0)));
        }

        /// For any text, parsing ends, and neither the error nor `Debug` shows a password.
        #[test]
        fn any_text_is_read_or_refused(
            scheme in "(rediss?|redis[+](unix|cluster|sentinel))?", text in "[^\\x00]{0,60}", password in "hunter2[a-z0-9]{1,9}",
        ) {
            for url in [format!("{scheme}:{text}"), format!("{scheme}://u:{password}@{text}"), format!("{scheme}://{text}:{password}@h")] {
                let shown = match url.parse::<RedisUrl>() {
                    Ok(url) => format!("{url:?}"),
                    Err(error) => format!("{error} {error:?}"),
                };
                let may_be_a_host = shown.contains("Tcp") || shown.contains("Unix");
                prop_assert!(may_be_a_host || !shown.contains(&password), "{}", shown);
            }
        }
    }
}
