//! A SPIFFE Workload API on a unix socket, as its specification has it, steered by its handle: what it gives,
//! that it denies, breaks off, or is gone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use countersign::cli::mint::{Authority, Minted};
use futures_util::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tonic::codegen::{BoxFuture, BoxStream, http};
use tonic::server::ServerStreamingService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::certificates::parsed;
use super::{World, soon};

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct X509SvidRequest {}

/// What is said at one time; nothing at first.
type Said = Option<Result<X509SvidResponse, Status>>;

/// Gone when dropped, and its socket with it.
pub struct WorkloadApi {
    socket: PathBuf,
    said: watch::Sender<Said>,
    /// Streams that were ever asked for.
    asked: watch::Receiver<u64>,
    task: AbortHandle,
}

impl World {
    /// Where a Workload API listens, if one does.
    pub fn workload_socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The answer of a Workload API: who we are, `orders`, and who is believed.
    pub fn svid_response(&self, own: &Minted, cas: &[&Authority]) -> X509SvidResponse {
        let id = super::certificates::spiffe_id(super::certificates::TRUST_DOMAIN, "orders");
        X509SvidResponse { svids: vec![svid(&id, own, cas)], ..X509SvidResponse::default() }
    }
}

pub fn svid(id: &str, own: &Minted, cas: &[&Authority]) -> X509Svid {
    let (chain, key) = parsed(own);
    X509Svid {
        spiffe_id: id.to_owned(),
        x509_svid: chain.iter().flat_map(|certificate| certificate.to_vec()).collect(),
        x509_svid_key: key.secret_der().to_vec(),
        bundle: bundle(cas),
        hint: String::new(),
    }
}

/// CA certificates, one after the other.
pub fn bundle(cas: &[&Authority]) -> Vec<u8> {
    cas.iter().flat_map(|ca| CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap().to_vec()).collect()
}

impl WorkloadApi {
    pub fn start(socket: &Path) -> WorkloadApi {
        let said = watch::Sender::new(None);
        let (asking, asked) = watch::channel(0);
        let listener = UnixListener::bind(socket).unwrap();
        let service = Service { said: said.clone(), asking };
        let accept = async move {
            let mut open = JoinSet::new(); // dropped with this task
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                open.spawn(async move {
                    let answer = service_fn(|request| answer(service.clone(), request));
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        };
        let task = tokio::spawn(accept).abort_handle();
        WorkloadApi { socket: socket.to_owned(), said, asked, task }
    }

    /// Says this on all streams, and first on those to come.
    pub fn gives(&self, response: X509SvidResponse) {
        self.said.send_replace(Some(Ok(response)));
    }

    /// Ends all streams with this, and those to come.
    pub fn refuses(&self, status: Status) {
        self.said.send_replace(Some(Err(status)));
    }

    /// Waits until a stream was asked for once more.
    pub async fn asked_again(&self) {
        let mut asked = self.asked.clone();
        let before = *asked.borrow_and_update();
        soon("a stream", asked.wait_for(|asked| *asked > before)).await.unwrap();
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[derive(Clone)]
struct Service {
    said: watch::Sender<Said>,
    asking: watch::Sender<u64>,
}

async fn answer(
    service: Service,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let is_meant = request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true");
    if !is_meant {
        return Ok(Status::invalid_argument("security header missing from request").into_http());
    }
    if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
        return Ok(Status::unimplemented(request.uri().path()).into_http());
    }
    let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
    Ok(tonic::server::Grpc::new(codec).server_streaming(service, request).await)
}

impl ServerStreamingService<X509SvidRequest> for Service {
    type Response = X509SvidResponse;
    type ResponseStream = BoxStream<X509SvidResponse>;
    type Future = BoxFuture<Response<BoxStream<X509SvidResponse>>, Status>;

    fn call(&mut self, _: Request<X509SvidRequest>) -> Self::Future {
        self.asking.send_modify(|asked| *asked += 1);
        let mut said = self.said.subscribe();
        said.mark_changed();
        let answers = stream::unfold(said, async |mut said| {
            loop {
                said.changed().await.ok()?;
                let now = said.borrow_and_update().clone();
                if let Some(now) = now {
                    return Some((now, said));
                }
            }
        });
        Box::pin(std::future::ready(Ok(Response::new(answers.boxed()))))
    }
}
