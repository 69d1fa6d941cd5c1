//! A gRPC service and its client, by hand and without protoc: `echo.Echo/Say` says one message back,
//! `echo.Echo/Chat` each of a stream as it comes. The text `fail` is refused with `INVALID_ARGUMENT`.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::codegen::{BoxFuture, BoxStream, Service, http, tokio_stream::Stream};
use tonic::server::{StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Body;
use super::client::Client;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Words {
    #[prost(string, tag = "1")]
    pub text: String,
}

type Codec = ProstCodec<Words, Words>;

pub fn words(text: &str) -> Words {
    Words { text: text.to_owned() }
}

/// Answers one gRPC request, whatever it asks.
pub async fn serve(request: http::Request<Incoming>) -> http::Response<Body> {
    let mut server = tonic::server::Grpc::new(Codec::default());
    let response = match request.uri().path() {
        "/echo.Echo/Say" => server.unary(Say, request).await,
        "/echo.Echo/Chat" => server.streaming(Chat, request).await,
        path => Status::unimplemented(path).into_http(),
    };
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

struct Say;
struct Chat;

impl UnaryService<Words> for Say {
    type Response = Words;
    type Future = BoxFuture<Response<Words>, Status>;

    fn call(&mut self, request: Request<Words>) -> Self::Future {
        let said = echo(request.into_inner()).map(|words| {
            let mut response = Response::new(words);
            response.metadata_mut().insert("x-served-by", "echo".parse().unwrap());
            response
        });
        Box::pin(std::future::ready(said))
    }
}

impl StreamingService<Words> for Chat {
    type Response = Words;
    type ResponseStream = BoxStream<Words>;
    type Future = BoxFuture<Response<BoxStream<Words>>, Status>;

    fn call(&mut self, request: Request<Streaming<Words>>) -> Self::Future {
        let said: BoxStream<Words> = Box::pin(request.into_inner().map(|words| echo(words?)));
        Box::pin(std::future::ready(Ok(Response::new(said))))
    }
}

fn echo(words: Words) -> Result<Words, Status> {
    match words.text.as_str() {
        "fail" => Err(Status::invalid_argument("told to fail")),
        _ => Ok(words),
    }
}

/// `echo.Echo/Say` over an h2 client. What the request needs in headers goes into its metadata.
pub async fn say(client: &Arc<Client>, request: Request<Words>) -> Result<Response<Words>, Status> {
    let path = http::uri::PathAndQuery::from_static("/echo.Echo/Say");
    tonic::client::Grpc::new(Channel(client.clone())).unary(request, path, Codec::default()).await
}

/// `echo.Echo/Chat`, both ways at once.
pub async fn chat<S>(client: &Arc<Client>, request: Request<S>) -> Result<Streaming<Words>, Status>
where
    S: Stream<Item = Words> + Send + 'static,
{
    let path = http::uri::PathAndQuery::from_static("/echo.Echo/Chat");
    let mut client = tonic::client::Grpc::new(Channel(client.clone()));
    Ok(client.streaming(request, path, Codec::default()).await?.into_inner())
}

/// One of our connections, as tonic's client wants it.
struct Channel(Arc<Client>);

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<http::Response<Incoming>, hyper::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let client = self.0.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tonic::Code;

    use super::*;
    use crate::world::client::Protocol;
    use crate::world::upstream::Upstream;

    #[tokio::test]
    async fn unary_and_streaming_calls_echo_and_fail_as_told() {
        let upstream = Upstream::start().await;
        let client = Arc::new(Client::plain(upstream.address(), Protocol::H2).await.unwrap());
        let said = say(&client, Request::new(words("hello"))).await.unwrap();
        assert_eq!(said.metadata().get("x-served-by").unwrap(), "echo");
        assert_eq!(said.into_inner(), words("hello"));
        let failed = say(&client, Request::new(words("fail"))).await.unwrap_err();
        assert_eq!((failed.code(), failed.message()), (Code::InvalidArgument, "told to fail"));

        let all = ["a", "b", "fail", "c"].map(words);
        let mut answers = chat(&client, Request::new(stream::iter(all))).await.unwrap();
        assert_eq!(answers.message().await.unwrap(), Some(words("a")));
        assert_eq!(answers.message().await.unwrap(), Some(words("b")));
        assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
        let mut answers = chat(&client, Request::new(stream::iter([words("only")]))).await.unwrap();
        assert_eq!(answers.message().await.unwrap(), Some(words("only")));
        assert_eq!(answers.message().await.unwrap(), None);
        assert!(answers.trailers().await.unwrap().is_some());
        assert_eq!(upstream.counts().requests, 4);
    }
}
