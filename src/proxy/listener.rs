//! Listening sockets: opened once at the start, one for each core, and never closed by a reload.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::accept;
use super::seldom::Seldom;
use super::worker::Worker;

/// Connections that wait in the kernel, for each socket.
const BACKLOG: i32 = 1024;
/// How long to wait after the kernel refused to hand out a connection, as it does without descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Opens `count` sockets on one address, among which the kernel shares new connections out. Fails if
/// anybody, this program included, listens there already.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    // SO_REUSEPORT would let a second instance in silently; a socket without it finds out.
    let probe = socket(address, false)?;
    probe.listen(1)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..count)
        .map(|_| {
            let socket = socket(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts until the drain begins, then what the kernel still holds, then closes the socket.
pub async fn accept(worker: Rc<Worker>, position: usize, socket: TcpListener) {
    let draining = worker.shared.draining.clone();
    let failures = Seldom::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => admit(&worker, position, stream, from),
            Err(error) if is_per_connection(&error) => {}
            Err(error) => {
                worker.shared.metrics.accept_failures.inc();
                if let Some(left_out) = failures.due() {
                    tracing::error!(%error, left_out, "no connection can be accepted; trying again");
                }
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    while let Some(accepted) = waiting(&socket).await {
        match accepted {
            Ok((stream, from)) => admit(&worker, position, stream, from),
            Err(error) if is_per_connection(&error) => {}
            Err(error) => return tracing::error!(%error, "what waited to be accepted is lost"),
        }
    }
}

/// A connection that the kernel already holds, if there is one.
async fn waiting(socket: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|cx| match socket.poll_accept(cx) {
        std::task::Poll::Ready(accepted) => std::task::Poll::Ready(Some(accepted)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

/// Errors of one connection that ended before it was accepted, not of the socket.
fn is_per_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn admit(worker: &Rc<Worker>, position: usize, stream: TcpStream, from: SocketAddr) {
    let limits = &worker.shared.generation.load().limits;
    match worker.shared.admission.connection(limits.connections_max) {
        Ok(admitted) => {
            let connection = accept::serve(Rc::clone(worker), position, stream, from, admitted);
            worker.tasks.spawn_local(connection);
        }
        Err(limit) => worker.shared.metrics.limit_hit(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_an_error_and_its_own_sockets_share_one_port() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert_eq!(sockets[1].local_addr().unwrap(), address);
        assert_eq!(bind(address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(bind(address, 1).is_ok());
    }
}
