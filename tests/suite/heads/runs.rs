//! One test for each file of cases, with how many there are.

use super::run;

#[tokio::test]
async fn chunks() {
    run("chunking", 43).await;
}

#[tokio::test]
async fn connection_options() {
    run("connection", 23).await;
}

#[tokio::test]
async fn framings() {
    run("framing", 81).await;
}

#[tokio::test]
async fn hosts() {
    run("host", 65).await;
}

#[tokio::test]
async fn odd_heads_that_are_right() {
    run("legal", 35).await;
}

#[tokio::test]
async fn field_names() {
    run("names", 56).await;
}

#[tokio::test]
async fn requests_in_a_row() {
    run("pipelining", 20).await;
}

#[tokio::test]
async fn request_lines() {
    run("request-line", 58).await;
}

#[tokio::test]
async fn targets() {
    run("target", 122).await;
}

#[tokio::test]
async fn trailers() {
    run("trailers", 19).await;
}

#[tokio::test]
async fn upgrades() {
    run("upgrade", 22).await;
}

#[tokio::test]
async fn field_values() {
    run("values", 37).await;
}
