//! Where the client of the Countersign in front asked from, as that one tells it.

use serde_json::{Value, json};

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::HOST;

const RULES: &str = r#"
[[allow]]
name = "from the office"
service = ["front", "storefront"]
role = "none"
path = "/office"
client_ip = "203.0.113.0/24"

[[allow]]
name = "from this machine"
service = ["front", "storefront"]
role = "none"
path = "/here"
client_ip = "127.0.0.0/8"
"#;

#[tokio::test]
async fn the_address_behind_the_next_countersign_is_the_front_s_client_s() {
    let world = World::new().await;
    let chain = world.chain_with("jwks = \"front.jwks\"", RULES).await;
    let connect = async |config| Client::tls(chain.next.address("mesh"), HOST, config, Protocol::H1).await;
    let front = world.certificates.client_config_with(Some(&world.certificates.server("orders")));
    let front = connect(front).await.unwrap();
    let direct = connect(world.certificates.client_config(Who::Storefront)).await.unwrap();
    let cases = [
        (&front, "/office", Some("203.0.113.7"), 200, json!("203.0.113.7")),
        (&front, "/office", Some("203.0.113.7, 10.0.0.1"), 403, json!("10.0.0.1")),
        (&front, "/office", None, 403, Value::Null),
        // Of which machine it does not say.
        (&front, "/here", Some("127.0.0.1"), 403, Value::Null),
        (&front, "/here", None, 403, Value::Null),
        (&front, "/office", Some("nobody"), 400, Value::Null),
        (&direct, "/office", Some("203.0.113.7"), 403, json!("127.0.0.1")),
        (&direct, "/here", None, 200, json!("127.0.0.1")),
    ];
    for (client, path, told, status, address) in cases {
        let before = world.upstream.counts().requests;
        let mut request = get(path);
        if let Some(told) = told {
            request.headers_mut().insert("x-forwarded-for", told.parse().unwrap());
        }
        let answer = client.ask(request).await.unwrap();
        assert_eq!(answer.status, status, "{path} {told:?}");
        assert_eq!(world.upstream.counts().requests - before, u64::from(status == 200));
        if status != 400 {
            let record = chain.next.record_of(&answer).await;
            assert_eq!(record["connection"]["client_ip"], address, "{path} {told:?}");
        }
        if let (200, Some(told)) = (status, told) {
            let seen: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(seen.to_string().contains(&format!("for={told}")), "{seen}");
        }
    }
}
