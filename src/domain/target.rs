//! The target of a request, in parts that can be compared (RFC 3986): scheme, authority, path.
//!
//! What a gateway reports arrives in parts and is compared in parts. If the parts were joined and
//! the result parsed again, the client could decide where one part ends:
//! `Host: api.example:80\orders#` would hide the path. Anything outside the grammar here equals
//! nothing, since gateways, back ends and libraries interpret it differently.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

/// `http` or `https`: the schemes that gateways serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// Compares without case (RFC 3986 section 6.2.2.1).
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else {
            None
        }
    }

    /// The port if an authority names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host, and optionally a port; never user information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    host: Host<'a>,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Host<'a> {
    /// A name or an IPv4 address, as text.
    Name(Cow<'a, str>),
    /// An IPv6 address, which has several spellings.
    Address(Ipv6Addr),
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(name), Self::Name(other)) => name.eq_ignore_ascii_case(other),
            (Self::Address(address), Self::Address(other)) => address == other,
            (Self::Name(_), Self::Address(_)) | (Self::Address(_), Self::Name(_)) => false,
        }
    }
}

impl Eq for Host<'_> {}

impl<'a> Authority<'a> {
    /// Parses `host` or `host:port`. A host consists of ASCII letters, digits, `.`, `-` and `_`, or
    /// is an IPv6 address in brackets. No DNS host name has `_`, but names in container networks
    /// and Windows domains do, and no parser gives it a special meaning. Percent-encoding, other
    /// alphabets, user information and ports such as `0443` are refused: parsers interpret them
    /// differently.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, rest) = if let Some(bracketed) = text.strip_prefix('[') {
            let (address, rest) = bracketed.split_once(']')?;
            (Host::Address(address.parse().ok()?), rest)
        } else {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_name = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            (is_name.then_some(Host::Name(Cow::Borrowed(name)))?, rest)
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }

    /// Whether both name the same server for `scheme`.
    pub fn is_same_for(&self, scheme: Scheme, other: &Authority<'_>) -> bool {
        self.host == other.host && self.port_for(scheme) == other.port_for(scheme)
    }

    /// An owned copy, in lowercase.
    pub fn into_owned(self) -> Authority<'static> {
        let host = match self.host {
            Host::Name(name) => Host::Name(Cow::Owned(name.to_ascii_lowercase())),
            Host::Address(address) => Host::Address(address),
        };
        Authority { host, port: self.port }
    }

    const fn port_for(&self, scheme: Scheme) -> u16 {
        match self.port {
            Some(port) => port,
            None => scheme.default_port(),
        }
    }
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Address(address) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A port from 1 to 65535, only in its canonical spelling.
fn port(digits: &str) -> Option<u16> {
    let is_canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    is_canonical.then(|| digits.parse().ok())?
}

/// A path with only one interpretation. Two paths are equal if they are after normalisation (RFC
/// 3986 section 6.2.2, required by RFC 9449 section 4.3): `%7Ebob` is `~bob`, and `%c3` is `%C3`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// `None` if gateways and back ends could interpret the path differently, so that the checked
    /// path might not be the served one: dot segments, empty segments, path parameters, a fragment,
    /// backslashes, encoded slashes, dots and percent signs, incomplete encodings.
    pub fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'/') {
            return None;
        }
        for (at, byte) in bytes.iter().enumerate() {
            let has_one_reading = match byte {
                b'%' => encoded(&bytes[at..]).is_some_and(|byte| !b"/\\.%;\0".contains(&byte)),
                b'/' => is_plain_segment(&bytes[at + 1..]),
                b'\\' | b';' | b'#' | b'?' => false,
                byte => byte.is_ascii_graphic(),
            };
            if !has_one_reading {
                return None;
            }
        }
        Some(Self(text))
    }

    /// The path of a request target, up to its query. A fragment is not allowed there: some parsers
    /// take the text after `#` as part of the path, others drop it. Before a query the path may be
    /// empty, as in `http://api.example?a=b`: that means `/` (RFC 9110 section 4.2.3).
    pub fn of_target(target: &'a str) -> Option<Self> {
        let path = match target.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => target,
        };
        if target.contains('#') { None } else { Self::parse(path) }
    }

    /// The bytes of the normalised path, each with whether it is percent-encoded there.
    fn normal(self) -> impl Iterator<Item = (bool, u8)> {
        let mut rest = self.0.as_bytes();
        std::iter::from_fn(move || {
            let byte = *rest.first()?;
            if let (b'%', Some(decoded)) = (byte, encoded(rest)) {
                rest = &rest[3..];
                return Some((!is_unreserved(decoded), decoded));
            }
            rest = &rest[1..];
            Some((false, byte))
        })
    }
}

impl PartialEq for Path<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.normal().eq(other.normal())
    }
}

impl Eq for Path<'_> {}

/// The byte of a percent-encoding at the start of `bytes`.
fn encoded(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| {
        char::from(*bytes.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(1)? << 4 | digit(2)?)
}

/// Whether the segment at the start of `rest`, which follows a slash, is neither a dot segment nor
/// empty. Only the last segment may be empty.
fn is_plain_segment(rest: &[u8]) -> bool {
    let segment = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    !matches!(segment, b"." | b"..") && (!segment.is_empty() || rest.is_empty())
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The query of a request target, without its `?`; empty if there is none. `None` if the target has
/// a `#`.
pub fn query_of_target(target: &str) -> Option<&str> {
    if target.contains('#') {
        None
    } else {
        Some(target.split_once('?').map_or("", |(_, query)| query))
    }
}

/// An absolute `http` or `https` URI, without query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUri<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// The host, and the port if the URI has one.
    pub authority: Authority<'a>,
    /// The path; `/` if the URI has none.
    pub path: Path<'a>,
}

impl<'a> HttpUri<'a> {
    /// Parses a URI such as `https://api.example/orders`.
    pub fn parse(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        Some(Self {
            scheme: Scheme::parse(scheme)?,
            authority: Authority::parse(authority)?,
            path: Path::parse(if path.is_empty() { "/" } else { path })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The normalised path as text, as in RFC 3986 section 6.2.2.
    fn normalised(path: Path<'_>) -> String {
        path.normal().fold(String::new(), |text, (is_encoded, byte)| {
            if is_encoded {
                text + &format!("%{byte:02X}")
            } else {
                text + char::from(byte).to_string().as_str()
            }
        })
    }

    #[test]
    fn hosts_have_a_grammar() {
        for good in [
            "a",
            "api.example",
            "API.example:443",
            "10.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:65535",
            "my_service:1",
            "a-b.",
        ] {
            assert!(Authority::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            ":80",
            "@api.example",
            "user@api.example",
            "user:password@api.example",
            "%61pi.example",
            "ａｐｉ.example",
            "api。example",
            "bücher.example",
            "api.example:",
            "api.example:0",
            "api.example:0443",
            "api.example:65536",
            "api.example:+80",
            "api.example:80:80",
            "api.example:80\\orders#",
            "api.example:80/orders",
            "api.example/",
            "api.example?",
            "api.example#",
            "api.example,api.example",
            "api.example api.example",
            " api.example",
            "api.example\t",
            "::1",
            "[::1",
            "[::1]]",
            "[::1]x",
            "[::1%25eth0]",
            "[::1%eth0]",
            "[v1.a]",
            "[api.example]",
            "[]",
        ] {
            assert!(Authority::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn default_ports_need_not_be_named() {
        let is_same = |scheme, one, other| {
            Authority::parse(one).unwrap().is_same_for(scheme, &Authority::parse(other).unwrap())
        };
        assert!(is_same(Scheme::Https, "api.example", "API.EXAMPLE:443"));
        assert!(is_same(Scheme::Http, "api.example:80", "api.example"));
        assert!(!is_same(Scheme::Http, "api.example:443", "api.example"));
        assert!(!is_same(Scheme::Https, "api.example.", "api.example"));
        assert!(is_same(Scheme::Https, "[::1]", "[0:0:0:0:0:0:0:1]:443"));
        assert!(!is_same(Scheme::Https, "127.1", "127.0.0.1"));
    }

    #[test]
    fn equal_paths_have_several_spellings() {
        for (one, other) in [
            ("/~bob", "/%7Ebob"),
            ("/~bob", "/%7ebob"),
            ("/%c3%bc", "/%C3%BC"),
            ("/a%2D%5f%61", "/a-_a"),
            ("/a%20b", "/a%20b"),
            ("/%3A", "/%3a"),
        ] {
            assert_eq!(Path::parse(one).unwrap(), Path::parse(other).unwrap(), "{one} {other}");
        }
        for (one, other) in [
            ("/a:b", "/a%3Ab"),
            ("/a", "/A"),
            ("/a", "/a/"),
            ("/%41", "/a"),
            ("/a%3Fb", "/a%3fc"),
            ("/a+b", "/a%20b"),
        ] {
            assert_ne!(Path::parse(one).unwrap(), Path::parse(other).unwrap(), "{one} {other}");
        }
    }

    #[test]
    fn paths_with_two_readings_are_none() {
        for path in [
            "",
            "a",
            "*",
            "//",
            "/a//b",
            "//a",
            "/.",
            "/..",
            "/./a",
            "/../a",
            "/a/..",
            "/a/.",
            "/a\\b",
            "/a;v=1/b",
            "/a#b",
            "/a?b",
            "/a b",
            "/a\tb",
            "/ü",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/%2e%2e/b",
            "/a%2Eb",
            "/a%252fb",
            "/a%00",
            "/a%3bb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/a%é1",
        ] {
            assert!(Path::parse(path).is_none(), "{path}");
        }
        for path in ["/", "/a/", "/a/b.c", "/...", "/.well-known/x", "/a%23b", "/a%3fb", "/a{b}"] {
            assert!(Path::parse(path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_target_has_no_fragment() {
        assert_eq!(Path::of_target("/a?b=/../c"), Path::parse("/a"));
        assert_eq!((Path::of_target("?a=b"), Path::of_target("")), (Path::parse("/"), None));
        assert_eq!((Path::of_target("/a#b"), Path::of_target("/a?b#c")), (None, None));
        assert_eq!(query_of_target("/a?b?c=%7e"), Some("b?c=%7e"));
        assert_eq!((query_of_target("/a"), query_of_target("/a?")), (Some(""), Some("")));
        assert_eq!(query_of_target("/a?b#c"), None);
    }

    /// Percent-encodes some characters of `path`, with some hexadecimal digits in lowercase.
    fn respelt(path: &str, choices: &[u8]) -> String {
        path.bytes().zip(choices.iter().cycle()).fold(String::new(), |text, (byte, choice)| {
            match choice % 3 {
                1 if is_unreserved(byte) && byte != b'.' => text + &format!("%{byte:02X}"),
                2 if is_unreserved(byte) && byte != b'.' => text + &format!("%{byte:02x}"),
                _ => text + char::from(byte).to_string().as_str(),
            }
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*", bytes in "[\\x00-\\xff]{0,40}") {
            for text in [&text, &bytes] {
                let _ = (HttpUri::parse(text), Authority::parse(text), Path::of_target(text), query_of_target(text));
                let _ = Path::parse(&format!("/{text}")).map(normalised);
            }
        }

        #[test]
        fn normalising_twice_changes_nothing_more(path in "/[a-zA-Z0-9%~:._-]{0,24}") {
            if let Some(path) = Path::parse(&path) {
                let once = normalised(path);
                let again = Path::parse(&once).expect("a normal form has one reading");
                prop_assert_eq!(normalised(again), once.clone());
                prop_assert!(again == path);
            }
        }

        #[test]
        fn paths_are_equal_if_their_normal_forms_are(one in "/[a-b%A-C0-9~.]{0,6}", other in "/[a-b%A-C0-9~.]{0,6}") {
            if let (Some(one), Some(other)) = (Path::parse(&one), Path::parse(&other)) {
                prop_assert_eq!(one == other, normalised(one) == normalised(other));
            }
        }

        #[test]
        fn another_spelling_is_the_same_path(path in "(/[a-zA-Z0-9~:_-]{1,6}){1,4}", choices in proptest::collection::vec(any::<u8>(), 1..30)) {
            let respelt = respelt(&path, &choices);
            prop_assert!(Path::parse(&respelt).unwrap() == Path::parse(&path).unwrap(), "{} {}", respelt, path);
        }

        /// The standard's own parser as a second opinion: if ours accepts a URI, both agree about
        /// its parts.
        #[cfg(feature = "server")]
        #[test]
        fn a_uri_has_the_parts_that_others_see(
            uri in "(https?|HTTPS?)://[a-zA-Z0-9.:@%\\\\\\[\\]_-]{1,20}(/[a-zA-Z0-9%~:._;-]{0,6}){0,3}([?#][a-z/]{0,4})?"
        ) {
            if let (Some(ours), Ok(theirs)) = (HttpUri::parse(&uri), url::Url::parse(&uri)) {
                prop_assert_eq!(ours.authority.port_for(ours.scheme), theirs.port_or_known_default().unwrap());
                prop_assert_eq!((theirs.username(), theirs.password()), ("", None));
                prop_assert!(ours.path == Path::parse(theirs.path()).unwrap(), "{}", uri);
            }
        }
    }
}
