use serde_json::json;
use xdc_grid::cli::selftest::{SelftestOptions, selftest};

use super::fake::FakeApi;

#[tokio::test]
async fn without_a_ready_model_the_self_test_says_so_and_creates_nothing() {
    let model = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": "tiny"},
        "spec": {"source": {"url": "http://x/y"}, "sha256": "00".repeat(32)}
    });
    let api = FakeApi::default().with_list("/apis/xdcgrid.io/v1alpha1/gridmodels", vec![model]);
    let options = SelftestOptions { namespace: "xdc-grid".into(), model: None, timeout_seconds: 3600 };
    let message = selftest(api.client("xdc-grid"), &options).await.unwrap_err().to_string();
    assert!(message.contains("no GridModel that writes text is Ready"), "{message}");
    assert_eq!(api.asked(), ["GET /apis/xdcgrid.io/v1alpha1/gridmodels"]);
}
