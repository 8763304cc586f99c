//! Sockets that a service manager has opened and passes on (`sd_listen_fds(3)`), each with the name
//! of a listener.

use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

use super::socket::Bound;
use crate::telemetry::connections::ListenerName;

/// The sockets that were passed to this process, by listener.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: [Option<Bound>; ListenerName::ALL.len()],
}

/// A passed socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The environment variables are inconsistent.
    #[error(
        "the sockets that were handed over cannot be told: `LISTEN_FDS` or `LISTEN_PID` is no number"
    )]
    Environment,
    /// The socket's name is not that of a listener.
    #[error(
        "a socket that was handed over is called {0:?}; expected `http`, `grpc` or `admin` (`FileDescriptorName=` of the socket unit)"
    )]
    Name(String),
    /// A listener has only one socket.
    #[error(
        "two sockets that were handed over are called `{0}`; a listener has one, so give each socket unit one `ListenStream=`"
    )]
    Twice(&'static str),
    /// It is not a listening socket.
    #[error(
        "what was handed over as `{name}` is no listening stream socket (`ListenStream=`, `Accept=no`)"
    )]
    NoListener {
        /// The socket's name.
        name: &'static str,
        /// The cause, if there is a system error.
        source: Option<std::io::Error>,
    },
}

impl Inherited {
    /// Takes the sockets that were passed to this process. Call it once, before anything opens
    /// other files: they could get the same descriptors.
    pub fn take() -> Result<Self, InheritedError> {
        let handed_over = sd_listen_fds::get().map_err(|_| InheritedError::Environment)?;
        Self::of(
            handed_over
                .into_iter()
                .map(|(name, descriptor)| (name.unwrap_or_default(), descriptor.into_std())),
        )
    }

    fn of(handed_over: impl Iterator<Item = (String, OwnedFd)>) -> Result<Self, InheritedError> {
        let mut inherited = Self::default();
        for (name, descriptor) in handed_over {
            let known = ListenerName::ALL.into_iter().find(|listener| listener.name() == name);
            let listener = known.ok_or(InheritedError::Name(name))?;
            let name = listener.name();
            let no_listener = |source| InheritedError::NoListener { name, source };
            let socket = Socket::from(descriptor);
            let is_listener =
                socket.is_listener().and_then(|is| Ok(is && socket.r#type()? == Type::STREAM));
            match is_listener {
                Ok(true) => {}
                Ok(false) => return Err(no_listener(None)),
                Err(error) => return Err(no_listener(Some(error))),
            }
            // Child processes have no use for it.
            socket.set_cloexec(true).map_err(|error| no_listener(Some(error)))?;
            let place = &mut inherited.sockets[listener as usize];
            if place.replace(Bound::inherited(socket)).is_some() {
                return Err(InheritedError::Twice(name));
            }
        }
        Ok(inherited)
    }

    /// The socket of `listener`, if one was passed.
    pub fn socket(&mut self, listener: ListenerName) -> Option<Bound> {
        self.sockets[listener as usize].take()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn of<const N: usize>(sockets: [(&str, OwnedFd); N]) -> Result<Inherited, InheritedError> {
        Inherited::of(sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket)))
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_are_known_by_their_names() {
        let (http, admin) = (listener(), listener());
        let expected = [&admin, &http].map(|listener| listener.local_addr().unwrap());
        let mut inherited = of([("admin", admin.into()), ("http", http.into())]).unwrap();
        let mut address = |listener| {
            inherited.socket(listener).map(|bound| bound.address().unwrap().tcp().unwrap())
        };
        assert_eq!([address(ListenerName::Admin), address(ListenerName::Http)], expected.map(Some));
        assert_eq!(address(ListenerName::Grpc), None);
    }

    #[test]
    fn what_is_for_no_listener_is_refused() {
        assert!(
            matches!(of([("countersign.socket", listener().into())]), Err(InheritedError::Name(name)) if name == "countersign.socket")
        );
        assert!(matches!(
            of([("http", listener().into()), ("http", listener().into())]),
            Err(InheritedError::Twice("http"))
        ));
        let listener = listener();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(matches!(
            of([("http", connection.into())]),
            Err(InheritedError::NoListener { name: "http", .. })
        ));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            of([("grpc", file.into())]),
            Err(InheritedError::NoListener { name: "grpc", .. })
        ));
    }
}
