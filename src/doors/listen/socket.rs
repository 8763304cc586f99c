//! Listening sockets: bound, opened and closed in order. TCP addresses, Unix socket files, and
//! sockets that a service manager passes on.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, UnixListener, UnixStream},
    time::Instant,
};

use super::{lock::Lock, peer::Peer};
use crate::config::{ListenAddress, SocketMode};

/// Connections that the kernel completes before they are accepted; the kernel may have a lower
/// limit.
const BACKLOG: u32 = 4096;
/// How long to accept completed connections before the listener is closed.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// An address that is bound but not open for connections yet. An inherited socket is open already:
/// its clients wait.
#[derive(Debug)]
pub struct Bound(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpSocket),
    Unix { socket: Socket, file: SocketFile },
    Inherited(Socket),
}

impl Bound {
    /// Binds `address`. A Unix socket's file gets the permissions `mode`.
    pub fn bind(address: &ListenAddress, mode: SocketMode) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket =
                    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                // As the standard library does: connections of a previous process may still be
                // ending.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self(Kind::Tcp(socket)))
            }
            ListenAddress::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                let file = SocketFile::bind(&socket, path, mode)?;
                Ok(Self(Kind::Unix { socket, file }))
            }
        }
    }

    /// A listening socket that someone else opened, and keeps open.
    pub(super) const fn inherited(socket: Socket) -> Self {
        Self(Kind::Inherited(socket))
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match &self.0 {
            Kind::Tcp(socket) => Ok(ListenAddress::Tcp(socket.local_addr()?)),
            Kind::Unix { file, .. } => Ok(ListenAddress::Unix(file.path.clone())),
            Kind::Inherited(socket) => address_of(socket),
        }
    }

    /// Opens the socket for connections. Must be called on a runtime.
    pub fn open(self) -> io::Result<Listener> {
        let address = self.address()?;
        let (socket, owner) = match self.0 {
            Kind::Tcp(socket) => (Open::Tcp(socket.listen(BACKLOG)?), Owner::This),
            Kind::Unix { socket, file } => {
                #[allow(clippy::cast_possible_wrap, reason = "some thousands")]
                socket.listen(BACKLOG as i32)?;
                (Open::of(socket)?, Owner::File(file))
            }
            Kind::Inherited(socket) => (Open::of(socket)?, Owner::Another),
        };
        Ok(Listener { socket, address, owner })
    }
}

fn address_of(socket: &Socket) -> io::Result<ListenAddress> {
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(ListenAddress::Tcp(address)),
        (None, Some(path)) => Ok(ListenAddress::Unix(path.to_owned())),
        // A socket without a file, in Linux's abstract namespace, is shown as such.
        (None, None) => {
            let name = address.as_abstract_namespace().unwrap_or_default();
            Ok(ListenAddress::Unix(format!("@{}", String::from_utf8_lossy(name)).into()))
        }
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: Open,
    address: ListenAddress,
    owner: Owner,
}

#[derive(Debug)]
enum Open {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Who owns the socket, and what is removed with it.
#[derive(Debug)]
enum Owner {
    /// This process.
    This,
    /// This process, with the file that clients connect to.
    File(SocketFile),
    /// The process that passed it to us. It outlives this one; clients that connect in the meantime wait
    /// for the next process.
    Another,
}

/// An accepted connection that can be moved to another runtime.
#[derive(Debug)]
pub(super) enum AcceptedStream {
    Tcp(TcpStream),
    Unix(StdUnixStream),
}

impl Write for AcceptedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for AcceptedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl AcceptedStream {
    /// Closes the sending side.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Open {
    fn of(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        if socket.domain()? == Domain::UNIX {
            UnixListener::from_std(socket.into()).map(Self::Unix)
        } else {
            TcpListener::from_std(socket.into()).map(Self::Tcp)
        }
    }
}

impl Listener {
    /// The address that it listens on.
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Whether connections may come from other hosts.
    pub(super) const fn is_tcp(&self) -> bool {
        matches!(self.socket, Open::Tcp(_))
    }

    /// Accepts the next connection.
    pub(super) async fn accept(&self) -> io::Result<(AcceptedStream, Peer)> {
        match &self.socket {
            Open::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are small and clients wait for them.
                stream.set_nodelay(true)?;
                Ok((AcceptedStream::Tcp(stream.into_std()?), Peer::Address(peer)))
            }
            Open::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                unix(stream)
            }
        }
    }

    /// Hands out the connections that are complete by now, and none after them. A connection
    /// completed later would be cut when the listener is closed, and a client that had sent its
    /// request by then could not tell whether it was read. An inherited socket is left alone, with
    /// all clients that wait there.
    pub(super) async fn last(&mut self, mut hand_out: impl FnMut(AcceptedStream, Peer)) {
        let Self { socket, owner, .. } = self;
        match (&*socket, owner) {
            (_, Owner::Another) => {}
            (Open::Tcp(listener), Owner::This | Owner::File(_)) => {
                pass_over_syn(listener).unwrap_or_else(|error| still_completes(&error));
                let end = Instant::now() + LAST_LOOK;
                while let Ok(Ok((stream, peer))) = tokio::time::timeout_at(end, self.accept()).await
                {
                    hand_out(stream, peer);
                }
            }
            (Open::Unix(listener), owner) => {
                if let Owner::File(file) = owner {
                    file.remove();
                }
                let listener = SockRef::from(listener);
                // New connections are refused from now on, and completed ones can still be
                // accepted. Do not wait for readability: a socket that is shut down stays readable.
                listener.shutdown(Shutdown::Read).unwrap_or_else(|error| still_completes(&error));
                while let Ok((stream, _)) = listener.accept() {
                    if let Ok((stream, peer)) = stream
                        .set_nonblocking(true)
                        .and_then(|()| unix(UnixStream::from_std(stream.into())?))
                    {
                        hand_out(stream, peer);
                    }
                }
            }
        }
    }
}

fn unix(stream: UnixStream) -> io::Result<(AcceptedStream, Peer)> {
    let peer = Peer::of_unix(&stream.peer_cred()?);
    Ok((AcceptedStream::Unix(stream.into_std()?), peer))
}

/// Clients that connect at the very end are then cut.
fn still_completes(error: &io::Error) {
    tracing::debug!(error = %error, "the kernel goes on completing connections");
}

/// Makes the kernel ignore new connection attempts (SYN). Such a client tries again within a
/// second, and is refused then.
#[cfg(target_os = "linux")]
fn pass_over_syn(listener: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;

    // Instructions of classic BPF: BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JSET | BPF_K, BPF_RET |
    // BPF_K.
    const LOAD_BYTE: u16 = 0x30;
    const TEST_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // A filter on a listener sees the packet from the TCP header on. The first segment of a
    // connection has the flag SYN.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(TEST_BITS, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// On other systems, a connection that completes at the last moment may be reset.
#[cfg(not(target_os = "linux"))]
fn pass_over_syn(_: &TcpListener) -> io::Result<()> {
    Ok(())
}

/// The file of a Unix socket. Removed when this is dropped, unless another file has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode number; `None` once the file is removed.
    file: Option<(u64, u64)>,
    /// Shows that the process that owns the file is alive.
    _lock: Lock,
}

impl SocketFile {
    /// Binds `socket` to `path`. A file left by a crashed process is replaced; one that is in use
    /// is not, and neither is anything that is not a socket.
    fn bind(socket: &Socket, path: &Path, mode: SocketMode) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        // Connecting cannot tell a socket that is bound but not open yet from one of a crashed
        // process.
        let lock = Lock::beside(path)?;
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file of that name, and it is no socket",
                ));
            }
            Ok(_) if is_listened_on(&address) => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        socket.bind(&address)?;
        let metadata = fs::symlink_metadata(path)?;
        let bound = Self {
            path: path.to_owned(),
            file: Some((metadata.dev(), metadata.ino())),
            _lock: lock,
        };
        // Nobody can connect yet, so it does not matter what the permissions were until here.
        fs::set_permissions(path, fs::Permissions::from_mode(mode.0))?;
        Ok(bound)
    }

    /// Removes the file, so that no new client finds the socket.
    fn remove(&mut self) {
        let Some(file) = self.file.take() else { return };
        let found =
            fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        if found.is_ok_and(|found| found == file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(error = %error, path = %self.path.display(), "the file of a Unix socket stays");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether someone may be listening: any result other than a refused connection counts, since the
/// listener may be busy, of another type, or not open to us.
fn is_listened_on(address: &SockAddr) -> bool {
    let connected = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        // Otherwise it would wait while the backlog is full.
        socket.set_nonblocking(true)?;
        socket.connect(address)
    });
    !connected.is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdUnixListener;

    use super::*;

    const MODE: SocketMode = SocketMode(0o640);

    fn unix(path: &Path) -> ListenAddress {
        ListenAddress::Unix(path.to_owned())
    }

    fn bind(path: &Path) -> io::Result<Bound> {
        Bound::bind(&unix(path), MODE)
    }

    /// Otherwise every response after the first waits until the gateway acknowledges the one
    /// before, which it delays by 40 ms.
    #[tokio::test]
    async fn answers_wait_for_no_acknowledgement() {
        let bound = Bound::bind(&ListenAddress::Tcp(([127, 0, 0, 1], 0).into()), MODE).unwrap();
        let address = bound.address().unwrap().tcp().unwrap();
        assert!(TcpStream::connect(address).is_err(), "bound is not open");
        let listener = bound.open().unwrap();
        let _gateway = TcpStream::connect(address).unwrap();
        let (AcceptedStream::Tcp(stream), Peer::Address(_)) = listener.accept().await.unwrap()
        else {
            panic!("over TCP")
        };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn who_connects_to_a_file_is_known_by_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let bound = bind(&path).unwrap();
        assert!(StdUnixStream::connect(&path).is_err(), "bound is not open");
        assert_eq!(bound.address().unwrap(), unix(&path));
        let listener = bound.open().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let _gateway = StdUnixStream::connect(&path).unwrap();
        let (AcceptedStream::Unix(_), Peer::Process { user, process }) =
            listener.accept().await.unwrap()
        else {
            panic!("over a file")
        };
        assert_eq!(user, fs::metadata(dir.path()).unwrap().uid());
        assert_eq!(process, i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn a_file_that_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as after a crash");
        drop(bind(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let foreign = StdUnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "another program's");
        drop((foreign, fs::remove_file(&path)));

        let first = bind(&path).unwrap();
        assert_eq!(
            bind(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "bound, and not yet open"
        );
        drop(first);

        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_file_of_another_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let bound = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _another = StdUnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    /// Clients that have connected by then have sent their request, or are about to.
    #[tokio::test]
    async fn those_who_came_before_the_end_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut listener = bind(&path).unwrap().open().unwrap();
        let hard_link = dir.path().join("found-earlier");
        fs::hard_link(&path, &hard_link).unwrap();
        let _before = StdUnixStream::connect(&path).unwrap();
        let mut accepted = Vec::new();
        listener.last(|stream, _| accepted.push(stream)).await;
        assert!(matches!(accepted[..], [AcceptedStream::Unix(_)]), "{accepted:?}");
        assert!(!path.exists());
        assert_eq!(
            StdUnixStream::connect(&hard_link).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[tokio::test]
    async fn a_socket_of_another_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let owner = StdUnixListener::bind(&path).unwrap();
        let mut listener =
            Bound::inherited(Socket::from(owner.try_clone().unwrap())).open().unwrap();
        assert_eq!(listener.address(), &unix(&path));
        let _waiting = StdUnixStream::connect(&path).unwrap();
        listener.last(|_, _| panic!("it waits for the next")).await;
        drop(listener);
        owner.accept().unwrap();
        StdUnixStream::connect(&path).unwrap();
    }
}
