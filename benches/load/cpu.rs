//! CPU time of the proxy, user's and kernel's, in microseconds a request.

use crate::proxy::Proxy;
use crate::scenario::Load;

const REPETITIONS: usize = 5;

pub async fn per_request(proxy: &Proxy, load: &mut Load<'_>, requests: usize) -> f64 {
    let before = proxy.cpu();
    load.go(requests).await;
    (proxy.cpu() - before).as_secs_f64() * 1e6 / requests as f64
}

/// Of several repetitions the one in the middle.
pub async fn median(proxy: &Proxy, load: &mut Load<'_>, requests: usize) -> f64 {
    let mut seen = Vec::new();
    for _ in 0..REPETITIONS {
        seen.push(per_request(proxy, load, requests).await);
    }
    middle(seen)
}

pub fn middle(mut seen: Vec<f64>) -> f64 {
    seen.sort_by(f64::total_cmp);
    seen[seen.len() / 2]
}
