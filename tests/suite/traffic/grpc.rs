//! gRPC passes with its trailers, both ways at once, and is refused in its own terms.

use futures_util::stream;
use http::header::AUTHORIZATION;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::Traffic;
use crate::world::certificates::Who;
use crate::world::client::Protocol;
use crate::world::grpc::{Words, chat, say, words};
use crate::world::soon;

fn request<T>(traffic: &Traffic, kind: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = traffic.bearer();
    let metadata = request.metadata_mut();
    metadata.insert(AUTHORIZATION.as_str(), MetadataValue::try_from(bearer.as_bytes()).unwrap());
    metadata.insert("x-upstream", kind.parse().unwrap());
    request
}

#[tokio::test]
async fn calls_pass_whole_with_their_trailers() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start();
    let client = std::sync::Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
    for kind in ["h2c", "tls"] {
        let said = soon("a unary call", say(&client, request(&traffic, kind, words("hello")))).await.unwrap();
        assert_eq!(said.metadata().get("x-served-by").unwrap(), "echo", "{kind}");
        assert_eq!(said.into_inner(), words("hello"), "{kind}");
        let failed = say(&client, request(&traffic, kind, words("fail"))).await.unwrap_err();
        assert_eq!((failed.code(), failed.message()), (Code::InvalidArgument, "told to fail"), "{kind}");

        // Each answer is waited for before the next message is sent.
        let (to, messages) = mpsc::channel::<Words>(1);
        let messages =
            stream::unfold(messages, |mut messages| async { Some((messages.recv().await?, messages)) });
        to.send(words("1")).await.unwrap();
        let mut answers = soon("a stream", chat(&client, request(&traffic, kind, messages))).await.unwrap();
        for number in 1..4 {
            let answer = soon("an answer", answers.message()).await.unwrap();
            assert_eq!(answer, Some(words(&number.to_string())), "{kind}");
            to.send(words(&(number + 1).to_string())).await.unwrap();
        }
        drop(to);
        assert_eq!(answers.message().await.unwrap(), Some(words("4")), "{kind}");
        assert_eq!(soon("the end", answers.message()).await.unwrap(), None, "{kind}");
        assert!(answers.trailers().await.unwrap().is_some(), "{kind}");
    }
    assert_eq!(proxy.records(6).await.len(), 6);
}

#[tokio::test]
async fn a_refused_call_has_the_status_that_its_library_understands() {
    let traffic = Traffic::new().await;
    let proxy =
        traffic.start_with("[[deny]]\nname = \"nobody chats\"\nroute = \"any\"\ngrpc = \"echo.Echo/Chat\"");
    let client = std::sync::Arc::new(proxy.client(Who::Storefront, Protocol::H2).await);
    let unsigned = soon("a call", say(&client, Request::new(words("hello")))).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::Unauthenticated, "{unsigned:?}");
    assert!(unsigned.message().starts_with("token_missing"), "{unsigned:?}");
    let denied = chat(&client, request(&traffic, "h2c", stream::iter([words("1")]))).await;
    let denied = denied.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    assert!(denied.message().starts_with("denied_by_rule"), "{denied:?}");
    assert_eq!(traffic.world.upstream.counts().requests, 0);
}
