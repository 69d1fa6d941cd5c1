//! The figures of `docs/capacity.md`: CPU time of requests, memory, and what that comes to in a task of some size.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use crate::cpu;
use crate::proxy::Proxy;
use crate::scenario::{Clients, Kind, Load};
use crate::world::World;
use crate::world::client::{Ask, Client, Protocol};
use crate::world::policy::{PATH, Shape};
use crate::world::signing::Algorithm;

/// A row of the table.
struct Row {
    name: &'static str,
    kind: Kind,
    pace: Pace,
    requests: usize,
}

/// How requests come.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as they are answered: the proxy is busy all the time.
    Fast,
    /// A thousand in a second: it sleeps between them, and waking up costs.
    Steady,
}

const STEADY: Row =
    row("HTTP/1, known token, at 1,000 a second", Kind::Hot(Protocol::H1), Pace::Steady, 1_920);
const NEW_TOKEN: Row = row("HTTP/1, new RS256 token", Kind::FirstSight(Algorithm::Rs256), Pace::Fast, 5_000);
const NEW_CONNECTION: Row =
    row("new connection, one request", Kind::Handshake { resumed: false }, Pace::Fast, 1_000);

const ROWS: [Row; 13] = [
    STEADY,
    row("HTTP/2, known token, at 1,000 a second", Kind::Hot(Protocol::H2), Pace::Steady, 1_920),
    row("HTTP/1, known token", Kind::Hot(Protocol::H1), Pace::Fast, 20_000),
    row("HTTP/2, known token", Kind::Hot(Protocol::H2), Pace::Fast, 20_000),
    row("HTTP/1, token known from before", Kind::SecondPass(Algorithm::Rs256), Pace::Fast, 5_000),
    NEW_TOKEN,
    row("HTTP/1, new ES256 token", Kind::FirstSight(Algorithm::Es256), Pace::Fast, 5_000),
    row("HTTP/1, refused by the policy", Kind::Forbidden, Pace::Fast, 20_000),
    row("HTTP/1, refused for a forged RS256 token", Kind::Forged, Pace::Fast, 2_500),
    NEW_CONNECTION,
    row("new connection, resumed, one request", Kind::Handshake { resumed: true }, Pace::Fast, 1_000),
    row("10 MiB of response", Kind::Download, Pace::Fast, 40),
    row("10 MiB of request", Kind::Upload, Pace::Fast, 40),
];

const REPETITIONS: usize = 5;
const CONNECTIONS: usize = 1_000;
const TOKENS: usize = 10_000;
/// vCPUs of a task.
const SIZES: [f64; 4] = [0.25, 0.5, 1.0, 2.0];
/// What may be planned with: above that, requests wait for each other.
const SHARE: f64 = 0.6;

const FROM: &str = "<!-- from here on by benches/measure -->\n";
const TO: &str = "<!-- to here -->\n";

const fn row(name: &'static str, kind: Kind, pace: Pace, requests: usize) -> Row {
    Row { name, kind, pace, requests }
}

/// Puts the figures in their place of the page.
pub async fn write(page: &Path) {
    let world = World::new();
    let costs = costs(&world).await;
    let figures = [requests(&costs), memory(&world).await, sizes(&costs)].join("\n");
    println!("{figures}");
    let text = fs::read_to_string(page).unwrap();
    let (before, rest) = text.split_once(FROM).unwrap();
    let (_, after) = rest.split_once(TO).unwrap();
    fs::write(page, format!("{before}{FROM}\n{figures}\n{TO}{after}")).unwrap();
}

/// CPU microseconds of one, of each row as often as it was repeated.
async fn costs(world: &World) -> Vec<Vec<f64>> {
    let mut costs: Vec<Vec<f64>> = ROWS.iter().map(|_| Vec::new()).collect();
    for at in 1..=REPETITIONS {
        for (row, seen) in ROWS.iter().zip(&mut costs) {
            let proxy = Proxy::on_one_core(world, &Shape::default()).await;
            let mut load =
                Load::prepare(world, &proxy, row.kind, Clients::many(row.kind), row.requests).await;
            let before = proxy.cpu();
            match row.pace {
                Pace::Fast => load.go(row.requests).await,
                Pace::Steady => load.spread(row.requests, Duration::from_millis(row.requests as u64)).await,
            }
            seen.push((proxy.cpu() - before).as_secs_f64() * 1e6 / row.requests as f64);
            drop(load);
            proxy.stop().await;
        }
        eprintln!("{at} of {REPETITIONS}");
    }
    costs
}

fn requests(costs: &[Vec<f64>]) -> String {
    let mut table = format!(
        "| request | CPU µs | least and most of {REPETITIONS} | vCPU for 1,000 a second |\n\
         | --- | ---: | ---: | ---: |\n"
    );
    for (row, seen) in ROWS.iter().zip(costs) {
        let each = cpu::middle(seen.clone());
        let least = seen.iter().copied().fold(f64::INFINITY, f64::min);
        let most = seen.iter().copied().fold(0.0, f64::max);
        writeln!(table, "| {} | {each:.0} | {least:.0}, {most:.0} | {:.3} |", row.name, each / 1e3).unwrap();
    }
    table
}

async fn memory(world: &World) -> String {
    let mut table = "| memory | resident |\n| --- | ---: |\n".to_owned();
    let token = world.issuer.token(Algorithm::Rs256, 0);
    for (name, protocol) in [("HTTP/1", Protocol::H1), ("HTTP/2", Protocol::H2)] {
        let proxy = Proxy::on_one_core(world, &Shape { more: MANY, ..Shape::default() }).await;
        let mut open = Vec::new();
        let mut idle = 0.0;
        while open.len() < CONNECTIONS {
            let some = (0..20).map(async |_| {
                let mut client = Client::connect(proxy.address, &world.tls, protocol).await;
                assert_eq!(client.ask(&Ask::get(PATH), &token).await, StatusCode::OK);
                client
            });
            open.extend(join_all(some).await);
            if idle == 0.0 {
                idle = proxy.memory_mib();
                if protocol == Protocol::H1 {
                    writeln!(table, "| after a few requests | {idle:.0} MiB |").unwrap();
                }
            }
        }
        let each = (proxy.memory_mib() - idle) * 1024.0 / (CONNECTIONS - 20) as f64;
        writeln!(table, "| an idle {name} connection | {each:.0} KiB |").unwrap();
        drop(open);
        proxy.stop().await;
    }
    let proxy = Proxy::on_one_core(world, &Shape::default()).await;
    let kind = Kind::FirstSight(Algorithm::Rs256);
    let mut load = Load::prepare(world, &proxy, kind, Clients::many(kind), TOKENS).await;
    let before = proxy.memory_mib();
    load.go(TOKENS).await;
    let each = (proxy.memory_mib() - before) * 1024.0 / TOKENS as f64;
    writeln!(table, "| a remembered token, with its standing | {each:.1} KiB |").unwrap();
    drop(load);
    proxy.stop().await;
    table
}

/// Many clients of one address are otherwise too many.
const MANY: &str = "[limit]\nconnections_per_peer_max = 10000\n";

/// Computed from the costs.
fn sizes(costs: &[Vec<f64>]) -> String {
    let cost = |wanted: &Row| {
        let at = ROWS.iter().position(|row| row.name == wanted.name).unwrap();
        cpu::middle(costs[at].clone())
    };
    let hot = cost(&STEADY);
    let mixed = 0.98 * hot + 0.01 * cost(&NEW_TOKEN) + 0.01 * cost(&NEW_CONNECTION);
    let mut table =
        "| vCPU of the task | requests a second | 1 % with a new token, 1 % on a new connection | new \
                     connections a second, nothing else |\n| ---: | ---: | ---: | ---: |\n"
            .to_owned();
    for size in SIZES {
        let [hot, mixed, new] =
            [hot, mixed, cost(&NEW_CONNECTION)].map(|each| size * SHARE * 1e6 / each / 100.0).map(f64::floor);
        writeln!(table, "| {size} | {hot:.0}00 | {mixed:.0}00 | {new:.0}00 |").unwrap();
    }
    table
}
