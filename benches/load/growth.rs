//! `benches/growth.csv` and `docs/growth.svg`: what a request costs while everything around it grows.
//!
//! Instructions where valgrind can go along; else CPU time, of which only large differences mean anything on
//! a machine that others use too.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;

use futures_util::future::join_all;
use http::StatusCode;

use crate::callgrind;
use crate::cpu;
use crate::plot::{self, Line, Panel};
use crate::proxy::Proxy;
use crate::scenario::{Clients, Kind, Load};
use crate::world::World;
use crate::world::client::{Ask, Client, Protocol};
use crate::world::policy::{PATH, Shape};
use crate::world::signing::Algorithm;

/// What was measured, where there was so much of what grows.
struct Point {
    curve: &'static str,
    at: usize,
    measure: &'static str,
    value: f64,
}

const RULES: [usize; 3] = [20, 200, 2_000];
const ROUTES: [usize; 4] = [1, 10, 100, 1_000];
const TOKENS: [usize; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
const IDLE_CONNECTIONS: [usize; 5] = [1, 10, 100, 1_000, 5_000];
const HOT: Kind = Kind::Hot(Protocol::H1);

const INSTRUCTIONS: &str = "instructions";
const CPU: &str = "CPU us";
const MEMORY: &str = "MiB resident";

/// Counted under valgrind.
const COUNTED_REQUESTS: usize = 500;
const TIMED_REQUESTS: usize = 20_000;
/// Of the tokens that were seen, those whose second pass is measured.
const SAMPLE: usize = 10_000;
/// Minted and asked with at once.
const BATCH: usize = 10_000;

/// So many clients of one address, and for so long, are otherwise too many.
const MANY_IDLE: &str = "[limit]\nconnections_per_peer_max = 10000\nidle_timeout = \"10m\"\n";

pub async fn write(table: &Path, picture: &Path) {
    let mut points = Vec::new();
    rules(&mut points).await;
    routes(&mut points).await;
    tokens(&mut points).await;
    connections(&mut points).await;
    cores(&mut points).await;
    let mut text = "curve,at,measure,value\n".to_owned();
    for Point { curve, at, measure, value } in &points {
        writeln!(text, "{curve},{at},{measure},{}", rounded(*value)).unwrap();
    }
    fs::write(table, text).unwrap();
    fs::write(picture, plot::picture(&panels(&points))).unwrap();
}

/// Three digits say all that is there.
fn rounded(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn add(points: &mut Vec<Point>, curve: &'static str, at: usize, measure: &'static str, value: f64) {
    println!("{curve:<28}{at:>9}  {:>9} {measure}", rounded(value));
    points.push(Point { curve, at, measure, value });
}

async fn rules(points: &mut Vec<Point>) {
    let world = World::new();
    for (curve, kind, own_paths) in [
        ("rules", HOT, true),
        ("rules on one path", HOT, false),
        ("rules, first sight", Kind::FirstSight(Algorithm::Es256), true),
    ] {
        for rules in RULES {
            let shape = Shape { rules, own_paths, ..Shape::default() };
            let counted = callgrind::per_request(&world, &shape, kind, COUNTED_REQUESTS).await;
            add(points, curve, rules, INSTRUCTIONS, counted as f64);
        }
    }
}

async fn routes(points: &mut Vec<Point>) {
    let world = World::new();
    for routes in ROUTES {
        let shape = Shape { routes, ..Shape::default() };
        let counted = callgrind::per_request(&world, &shape, HOT, COUNTED_REQUESTS).await;
        add(points, "routes", routes, INSTRUCTIONS, counted as f64);
    }
}

/// One proxy sees more and more of them; after each step some are asked with again.
async fn tokens(points: &mut Vec<Point>) {
    let world = World::new();
    let proxy = Proxy::on_one_core(&world, &Shape::default()).await;
    let kind = Kind::FirstSight(Algorithm::Es256);
    let mut load = Load::connect(&world, &proxy, kind, Clients::many(kind)).await;
    let mut sample: Vec<(usize, String)> = Vec::new();
    let mut seen = 0;
    for count in TOKENS {
        let every = (count / SAMPLE).max(1);
        sample.retain(|(number, _)| number % every == 0);
        let (start, mut spent) = (seen, 0.0);
        while seen < count {
            let batch = BATCH.min(count - seen);
            let fresh = world.issuer.tokens(Algorithm::Es256, seen..seen + batch);
            let kept = (seen..).zip(&fresh).filter(|(number, _)| number % every == 0);
            sample.extend(kept.map(|(number, token)| (number, token.clone())));
            load.turn_to(fresh);
            spent += cpu::per_request(&proxy, &mut load, batch).await * batch as f64;
            seen += batch;
        }
        add(points, "tokens, first sight", count, CPU, spent / (count - start) as f64);
        let again: Vec<String> = sample.iter().map(|(_, token)| token.clone()).collect();
        let requests = again.len().max(SAMPLE);
        load.turn_to(again);
        let before = proxy.metric(HITS).await;
        add(points, "tokens, second pass", count, CPU, cpu::per_request(&proxy, &mut load, requests).await);
        let share = (proxy.metric(HITS).await - before) / requests as f64;
        add(points, "tokens, second pass", count, "found in memory", share);
        add(points, "tokens", count, MEMORY, proxy.memory_mib());
    }
    drop(load);
    proxy.stop().await;
}

const HITS: &str = r#"countersign_cache_lookups_total{cache="tokens",result="hit"}"#;

async fn connections(points: &mut Vec<Point>) {
    let world = World::new();
    let proxy = Proxy::on_one_core(&world, &Shape { more: MANY_IDLE, ..Shape::default() }).await;
    let mut load = Load::connect(&world, &proxy, HOT, Clients::many(HOT)).await;
    let token = world.issuer.token(Algorithm::Rs256, 0);
    let mut idle = Vec::new();
    for count in IDLE_CONNECTIONS {
        while idle.len() < count {
            let some = (idle.len()..count).take(20).map(async |_| {
                let mut client = Client::connect(proxy.address, &world.tls, Protocol::H1).await;
                assert_eq!(client.ask(&Ask::get(PATH), &token).await, StatusCode::OK);
                client
            });
            idle.extend(join_all(some).await);
        }
        let spent = cpu::median(&proxy, &mut load, TIMED_REQUESTS).await;
        add(points, "idle connections", count, CPU, spent);
        add(points, "idle connections", count, MEMORY, proxy.memory_mib());
    }
    drop((idle, load));
    proxy.stop().await;
}

/// The load has the same cores.
async fn cores(points: &mut Vec<Point>) {
    let world = World::new();
    for workers in 1..=thread::available_parallelism().unwrap().get() {
        let proxy = Proxy::start(&world, &Shape { workers, ..Shape::default() }, &[]).await;
        let mut load = Load::connect(&world, &proxy, HOT, Clients::many(HOT)).await;
        let spent = cpu::median(&proxy, &mut load, TIMED_REQUESTS).await;
        add(points, "cores", workers, CPU, spent);
        drop(load);
        proxy.stop().await;
    }
}

fn panels(points: &[Point]) -> Vec<Panel<'_>> {
    let line = |curve: &'static str, measure: &str| {
        let mine = points.iter().filter(|point| point.curve == curve && point.measure == measure);
        Line { name: curve, points: mine.map(|point| (point.at as f64, point.value)).collect() }
    };
    let panel = |title, curves: &[&'static str], measure| Panel {
        title,
        lines: curves.iter().map(|curve| line(curve, measure)).collect(),
    };
    vec![
        panel("Instructions a hot request, by rules", &["rules", "rules on one path"], INSTRUCTIONS),
        panel("Instructions a hot request, by routes", &["routes"], INSTRUCTIONS),
        panel("CPU µs a request, by distinct tokens", &["tokens, first sight", "tokens, second pass"], CPU),
        panel("MiB resident, by distinct tokens", &["tokens"], MEMORY),
        panel("CPU µs a hot request, by idle connections", &["idle connections"], CPU),
        panel("MiB resident, by idle connections", &["idle connections"], MEMORY),
    ]
}
