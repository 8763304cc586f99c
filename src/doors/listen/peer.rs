//! Who is at the other end of a connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tokio::net::unix::UCred;

/// The other end of a connection: usually a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doors) enum Peer {
    /// A host, over TCP.
    Address(SocketAddr),
    /// A local process, over a Unix socket, as it was when it connected.
    Process {
        /// Its uid.
        user: u32,
        /// Its pid, if the kernel reports it: the process may be in another namespace.
        process: Option<i32>,
    },
}

impl Peer {
    pub(super) fn of_unix(credentials: &UCred) -> Self {
        Self::Process { user: credentials.uid(), process: credentials.pid().filter(|id| *id > 0) }
    }

    /// The origin that its failures count against.
    pub(in crate::doors) const fn origin(self) -> Origin {
        match self {
            Self::Address(address) => Origin::Address(address.ip()),
            Self::Process { user, .. } => Origin::User(user),
        }
    }

    /// The pid, if it is a local process and the kernel reports it.
    pub(in crate::doors) const fn process(self) -> Option<i32> {
        match self {
            Self::Address(_) => None,
            Self::Process { process, .. } => process,
        }
    }
}

/// What all connections of one peer share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::doors) enum Origin {
    /// An IP address.
    Address(IpAddr),
    /// A local user, by uid.
    User(u32),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(user) => write!(f, "uid:{user}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Process { .. } => self.origin().fmt(f),
        }
    }
}
