//! The API on a TLS listener, for kubectl and every other client that is not in the process.

use crate::{
    api::Api,
    authentication::user::User,
    credentials::{Credentials, CredentialsError},
    http::body::Body,
};
use http::{Request, Response, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A client that has not finished its handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may take to finish when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running server. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `api` on a listener that the caller bound. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the credentials make no TLS configuration.
    pub fn start(
        listener: TcpListener,
        api: Api,
        credentials: &Credentials,
    ) -> Result<Self, CredentialsError> {
        let acceptor = TlsAcceptor::from(Arc::new(credentials.server_config()?));
        let token: Arc<str> = credentials.token().into();
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(accept(listener, acceptor, api, token, stopping));
        Ok(Self { stop, task })
    }

    /// Accepts nothing more, lets open requests finish for a moment, and closes.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = timeout(FAREWELL + Duration::from_secs(1), &mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: Api,
    token: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) {
    // Connections live in this set, so they end with this task however it ends.
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let watcher = graceful.watcher();
                let (acceptor, api, token) = (acceptor.clone(), api.clone(), token.clone());
                connections.spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let shaken = timeout(HANDSHAKE, acceptor.accept(socket)).await;
                    let Ok(Ok(stream)) = shaken else { return };
                    let trusted = has_certificate(&stream);
                    let service = service_fn(move |request| {
                        let (api, token) = (api.clone(), token.clone());
                        async move { Ok::<_, Infallible>(guard(&api, request, trusted, &token).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    // A client that breaks off is no error of this server.
                    let _ = watcher.watch(connection.into_owned()).await;
                });
            }
            // Out of descriptors: trying again at once would only burn the processor.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    drop(listener);
    let _ = timeout(FAREWELL, graceful.shutdown()).await;
}

fn has_certificate(stream: &TlsStream<TcpStream>) -> bool {
    // Only certificates of this cluster's authority pass the handshake.
    stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty())
}

/// Lets in who has shown a certificate, or shows the token or that of a service account, and everybody to what is public.
async fn guard(
    api: &Api,
    request: Request<Incoming>,
    trusted: bool,
    token: &str,
) -> Response<Body> {
    let mut request = request;
    if !trusted {
        let header = request.headers().get(header::AUTHORIZATION);
        let shown = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let user = shown.and_then(|shown| {
            if is_same(shown, token) {
                Some(User::admin().clone())
            } else {
                api.authenticate(shown)
            }
        });
        match user {
            Some(user) => {
                request.extensions_mut().insert(user);
            }
            None if Api::is_public(request.uri().path()) => {}
            None => return Api::unauthorized(),
        }
    }
    api.handle(request).await
}

/// Takes as long for a wrong token as for the right one.
fn is_same(shown: &str, token: &str) -> bool {
    shown.len() == token.len()
        && shown.bytes().zip(token.bytes()).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}
