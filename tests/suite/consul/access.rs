//! How the agent is reached: its tokens, logins and CA, none of which is said aloud.

use std::time::Duration;

use countersign::clock::Clock;
use serde_json::json;

use super::{READ, asked, ca, own, spec, world};
use crate::canary::Canaries;
use crate::spiffe::{identity, rotated};
use crate::world::World;
use crate::world::consul::{CLUSTER, ConsulAgent, Failing, leaf, login_token, roots};
use crate::world::presented::in_force;

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_by_a_login() {
    let agent = ConsulAgent::start(None).await;
    agent.takes_login("a.workload.jwt");
    let login = "partition = \"edge\"\nnamespace = \"default\"\ndatacenter = \"dc1\"\n[identity.consul.login]\nauth_method = \"tasks\"\nnamespace = \"ops\"\nbearer_token = { file = \"jwt\" }";
    let clock = Clock::manual(Clock::system().now());
    let world = world(clock.clone(), &agent, login).await;
    world.write("jwt", "an.old.jwt\n");
    let ca = ca(&world, "Consul CA");
    let of_edge = || ca.issue(&spec(&world, "ap/edge/ns/default/dc/dc1/svc/orders")).unwrap();
    let first = of_edge();
    agent.gives(&first, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    let failing = identity(&proxy, |it| it["failure"].is_string()).await;
    let told = "refuses the login with status 403 Forbidden (\"Permission denied\"): see the auth method";
    assert!(failing["failure"].as_str().unwrap().contains(told), "{failing}");
    assert_eq!(agent.logins(), 0);
    // What is shown is read anew.
    world.write("jwt", "a.workload.jwt\n");
    rotated(&proxy, &first).await;
    assert_eq!((agent.logins(), agent.login_namespace().as_deref()), (1, Some("ops")));

    // One that is new and refused may not: another would be refused as well.
    clock.advance(Duration::from_secs(299));
    agent.takes_token("nobody's");
    identity(&proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains("`service:write`"))).await;
    let before = agent.asked().len();
    asked(&agent, before + 4, "/v1/").await;
    assert_eq!((agent.logins(), agent.logged_out().len()), (1, 0));
    clock.advance(Duration::from_secs(1));
    let next = of_edge();
    agent.gives(&next, CLUSTER, &[&ca]);
    rotated(&proxy, &next).await;
    assert_eq!(agent.logins(), 2, "one for both queries");
    assert_eq!(agent.logged_out(), [login_token(1)]);
    identity(&proxy, |it| it["failure"].is_null()).await;
    // Nor does a login from a clock that was ahead hold off the next.
    agent.takes_token("nobody's");
    clock.set(clock.now().minus(Duration::from_secs(60)));
    let last = of_edge();
    agent.gives(&last, CLUSTER, &[&ca]);
    rotated(&proxy, &last).await;
    assert_eq!(agent.logins(), 3);

    // `ns` would be that of the auth method.
    for asked in [
        "/v1/acl/login?partition=edge&dc=dc1",
        "/v1/acl/logout?dc=dc1",
        "/v1/agent/connect/ca/roots?partition=edge&ns=default&dc=dc1",
    ] {
        assert!(agent.asked().iter().any(|it| it == asked), "{asked}");
    }

    // Something else that fails takes no login; nor does a token that is refused for good take many.
    // Of what the agent says the start is told, unless it is what it was asked with.
    let said = format!("rpc error:\u{1b}[31m no leader\u{202e}{}", "a".repeat(300));
    let secret = format!("no leader for {}", login_token(3));
    for (said, told) in [
        (
            &said,
            format!(
                "500 Internal Server Error (\"rpc error:\u{fffd}[31m no leader\u{fffd}{}\"); its log",
                "a".repeat(174)
            ),
        ),
        (&secret, "500 Internal Server Error; its log".to_owned()),
    ] {
        agent.fails(Failing::Says(500, said.clone()));
        identity(&proxy, |it| it["failure"].as_str().is_some_and(|it| it.contains(&told))).await;
    }
    agent.gives(&last, CLUSTER, &[&ca]);
    identity(&proxy, |it| it["failure"].is_null()).await;
    assert_eq!(agent.logins(), 3);
}

#[tokio::test]
async fn a_token_in_a_file_is_read_anew() {
    let agent = ConsulAgent::start(None).await;
    agent.takes_token("the-second");
    let world = world(Clock::system(), &agent, "token = { file = \"token\" }").await;
    world.write("token", "the-first\n");
    let ca = ca(&world, "Consul CA");
    let own = own(&world, &ca);
    agent.gives(&own, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    let failing = identity(&proxy, |it| it["failure"].is_string()).await;
    assert!(failing["failure"].as_str().unwrap().contains("refuses with status 403"), "{failing}");
    world.write("token", "the-second\n");
    rotated(&proxy, &own).await;
}

#[tokio::test]
async fn an_agent_behind_tls_is_verified() {
    let elsewhere = World::new().await;
    let agent = ConsulAgent::start(Some(elsewhere.certificates.server_config("agent"))).await;
    let by_name = |url: &str| url.replace("127.0.0.1", "localhost");
    let mut seen = 0;
    for (file, is_good) in [("agent-ca.pem", true), ("partner-ca.pem", false)] {
        let mut world = world(Clock::system(), &agent, &format!("ca = \"{file}\"")).await;
        world.identity = world.identity.map(|text| by_name(&text));
        world.write("agent-ca.pem", &elsewhere.certificates.shop.pem());
        let ca = ca(&world, "Consul CA");
        let own = own(&world, &ca);
        agent.gives(&own, CLUSTER, &[&ca]);
        let proxy = world.start(READ);
        if is_good {
            rotated(&proxy, &own).await;
        } else {
            let failing = identity(&proxy, |it| it["failure"].is_string()).await;
            assert!(failing["failure"].as_str().unwrap().contains("certificate"), "{failing}");
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn the_ca_of_the_agent_rotates_and_keeps_no_configuration_out() {
    let (before, after) = (World::new().await, World::new().await);
    let agent = ConsulAgent::start(Some(before.certificates.server_config("agent"))).await;
    let mut world = world(Clock::system(), &agent, "ca = \"agent-ca.pem\"").await;
    world.identity = world.identity.map(|text| text.replace("127.0.0.1", "localhost"));
    world.write("agent-ca.pem", &before.certificates.shop.pem());
    let ca = ca(&world, "Consul CA");
    let first = own(&world, &ca);
    agent.gives(&first, CLUSTER, &[&ca]);
    let proxy = world.start(READ);
    rotated(&proxy, &first).await;

    world.write("agent-ca.pem", &after.certificates.shop.pem());
    proxy.server.reload(world.load()).unwrap();
    // The agent comes back with a certificate of the next CA.
    let agent = agent.comes_back(after.certificates.server_config("agent")).await;
    let next = own(&world, &ca);
    agent.gives(&next, CLUSTER, &[&ca]);
    rotated(&proxy, &next).await;
}

#[tokio::test]
async fn no_secret_of_the_agent_is_said_aloud() {
    let agent = ConsulAgent::start(None).await;
    let mut canaries = Canaries::default();
    let bearer = canaries.plant("what is shown at the login");
    agent.takes_login(&bearer);
    let login = "[identity.consul.login]\nauth_method = \"tasks\"\nbearer_token = { file = \"jwt\" }";
    let world = world(Clock::system(), &agent, login).await;
    world.write("jwt", &bearer);
    let ca = ca(&world, "Consul CA");
    let own = own(&world, &ca);
    let key = leaf(&own)["PrivateKeyPEM"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
    canaries.add("the private key", key);
    canaries.add("the token of a login", login_token(1));
    agent.gives(&own, CLUSTER, &[&ca]);
    world.configuration(&format!("{READ}\n[log]\nlevel = \"trace\"\nformat = \"json\"\n"));
    let binary = world.run(&[]);
    in_force(binary.address("listener", "mesh").await, &own).await;
    // Garbage with a key in it.
    agent.says(json!({"CertPEM": leaf(&own)["PrivateKeyPEM"]}), roots(CLUSTER, &[&ca]));
    binary.logged(|line| line["why"].as_str().is_some_and(|why| why.contains("does not parse"))).await;
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let (log, stdout) = binary.end().await;
    for (what, text) in [("log", log), ("standard output", stdout), ("audit records", audit)] {
        assert_eq!(canaries.found_in(&text), [""; 0], "{what}");
    }
    assert_eq!(agent.logins(), 1);
}
