//! Clients that go away in the middle.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::Soak;
use super::kinds::{Asked, Bearer, KINDS, When};
use super::ledger::Seen;
use crate::world::Body;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, next_data};

impl Soak<'_> {
    pub async fn abandons(&self, kind: usize, protocol: Protocol, when: When) {
        let Some(client) = self.client(Who::Storefront, protocol).await else { return };
        let get = |target| Asked { method: "GET", target, bearer: Bearer::Good, body_bytes: 0 };
        let asking = self.ledger.open(kind);
        let mut seen = Seen::default();
        match when {
            When::Waiting | When::Uploading => {
                let _turn = self.turn.lock().await;
                let before = self.held.counts().requests;
                let request = match when {
                    When::Waiting => self.request(&asking, &get("/held/7?hold")),
                    _ => {
                        let asked = Asked { method: "POST", ..get("/held/7") };
                        self.request(&asking, &asked).map(|_| stuck())
                    }
                };
                tokio::select! {
                    answer = client.send(request) => match answer {
                        Err(error) if error.is_canceled() => return self.ledger.unsent(&asking),
                        other => self.ledger.complain(format!("{}: {other:?}", KINDS[kind].name)),
                    },
                    () = self.held.until(|counts| counts.requests > before) => {}
                }
            }
            When::Downloading => {
                // more than all buffers on the way hold
                let asked = get("/orders/7?download=30000000");
                match client.send(self.request(&asking, &asked)).await {
                    Ok(answer) => {
                        seen.status = Some(answer.status().as_u16());
                        let _ = next_data(&mut answer.into_body()).await;
                    }
                    Err(error) if error.is_canceled() => return self.ledger.unsent(&asking),
                    Err(error) => self.ledger.complain(format!("{}: {error:?}", KINDS[kind].name)),
                }
            }
            When::AtOnce => {
                // from before its first byte until after its answer
                let turns = fastrand::u8(..20);
                let some_turns = async {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    _ = client.send(self.request(&asking, &get("/orders/7"))) => {}
                    () = some_turns => {}
                }
            }
        }
        drop(client);
        self.ledger.close(&asking, seen);
    }
}

/// A body that begins and never goes on.
fn stuck() -> Body {
    let start = stream::iter([Ok(Frame::data(Bytes::from("start")))]);
    StreamBody::new(start.chain(stream::pending())).boxed_unsync()
}
