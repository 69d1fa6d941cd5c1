//! Connections that rested for a while gave their buffers back, and nothing else.

use super::Traffic;
use super::limits::PLAIN;
use crate::world::client::Raw;
use crate::world::proxy::{HOST, Proxy};

/// Longer than the second after which a connection rests.
const LIMIT: &str = "[limit]\nheader_timeout = \"1500ms\"\n";

impl Traffic {
    /// Ends when connections have rested that were asked nothing since this was called.
    async fn a_rest(&self, proxy: &Proxy<'_>) {
        let mut slow = self.connection(proxy, "mesh").await;
        slow.send("GET / HTTP/1.1\r\n").await.unwrap();
        slow.rest().await;
    }

    fn request(&self, first: &str, more: &str) -> String {
        let bearer = self.bearer();
        format!(
            "{first} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n{more}\r\n",
            bearer.to_str().unwrap()
        )
    }
}

async fn are_answered(raw: &mut Raw, answers: usize) {
    for number in 0..answers {
        let head = raw.head().await.unwrap();
        let is_whole = head.starts_with("HTTP/1.1 200") && head.contains("content-length: 0\r\n");
        assert!(is_whole, "{number}: {head}");
    }
}

#[tokio::test]
async fn what_comes_after_a_rest_is_served_as_ever() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(&format!("{PLAIN}{LIMIT}"));
    let mut open = Vec::new();
    for (listener, path) in [("mesh", "/orders/1?download=0"), ("plain", "/plain/1?download=0")] {
        let get = traffic.request(&format!("GET {path}"), "");
        let post = traffic.request(&format!("POST {path}"), "content-length: 5\r\n") + "12345";
        let chunked = traffic.request(&format!("POST {path}"), "transfer-encoding: chunked\r\n");
        let chunked = chunked + "1\r\n1\r\n0\r\n\r\n";
        let (start, end) = get.split_at(1);
        for (first, then, answers) in [
            (vec![get.as_str()], vec![start, end], 1),
            (vec![&get, &get], vec![&get, &post, &get], 3),
            (vec![&post], vec![&get], 1),
            (vec![&chunked], vec![&chunked], 1),
        ] {
            let mut raw = traffic.connection(&proxy, listener).await;
            raw.send(first.concat()).await.unwrap();
            are_answered(&mut raw, first.len()).await;
            open.push((raw, then.into_iter().map(str::to_owned).collect::<Vec<_>>(), answers));
        }
    }
    assert_eq!(open.len(), 8);
    traffic.a_rest(&proxy).await;
    let before = traffic.world.upstream.counts().requests;
    for (mut raw, pieces, answers) in open {
        for piece in pieces {
            raw.send(piece).await.unwrap();
        }
        are_answered(&mut raw, answers).await;
    }
    assert_eq!(traffic.world.upstream.counts().requests - before, 12);
}

#[tokio::test]
async fn what_follows_an_answer_in_the_middle_of_a_body_is_no_request() {
    let traffic = Traffic::new().await;
    let proxy = traffic.start_with(LIMIT);
    let mut raw = traffic.connection(&proxy, "mesh").await;
    let smuggled = traffic.request("GET /orders/1?download=0", "");
    let length = format!("content-length: {}\r\n", 5 + smuggled.len());
    raw.send(traffic.request("POST /orders/1?early", &length) + "12345").await.unwrap();
    assert!(raw.head().await.unwrap().starts_with("HTTP/1.1 200"));
    traffic.a_rest(&proxy).await;
    // By then it may be closed.
    let _ = raw.send(smuggled).await;
    let rest = raw.rest().await;
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{rest:?}");
    assert_eq!(traffic.world.upstream.counts().requests, 1);
}
