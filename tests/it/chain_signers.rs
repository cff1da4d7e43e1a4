//! Keys that are not in the process: a signer over HTTP, as the operator uses it, against a real chain, and over mutual TLS.

use xdc_grid::{
    api::ids::Wei,
    chain::{
        ChainError, ChainKey, Signer,
        signer::{Pem, RemoteSigner, RemoteSignerOptions, SignerTls},
    },
};

use crate::{
    chain_anvil::{CHAIN_ID, Grid, key, pace},
    support::signer::{Authority, Identity, SigningServer},
};

fn options(url: &str, key: &ChainKey) -> RemoteSignerOptions {
    RemoteSignerOptions { url: url.to_owned(), address: key.address(), tls: SignerTls::default() }
}

fn pem(named: &str, content: &str) -> Option<Pem> {
    Some(Pem { named: named.to_owned(), content: content.as_bytes().to_vec() })
}

fn tls(client: Option<&Identity>, authority: &Authority) -> SignerTls {
    SignerTls {
        certificate: client.and_then(|client| pem("client.pem", &client.certificate)),
        key: client.and_then(|client| pem("client.key", &client.key)),
        authority: pem("ca.pem", &authority.pem()),
    }
}

#[tokio::test]
async fn a_remote_signer_sends_what_the_key_itself_would_have_sent() {
    let grid = Grid::deploy().await;
    let (_server, url) = SigningServer::start(&[&key(50), &grid.owner]).await;
    let remote = RemoteSigner::connect(&options(&url, &grid.owner)).await.unwrap();
    assert_eq!(remote.address(), grid.owner.address());
    let payload = b"an unsigned transaction";
    assert_eq!(remote.sign(payload).await.unwrap(), Signer::sign(&grid.owner, payload).await.unwrap());

    let before = grid.client.epoch_state(xdc_grid::chain::At::Latest).await.unwrap().reward_pool;
    let intent = grid.client.fund_intent(Wei::XDC, "by a remote signer");
    let rpc = grid.anvil.rpc();
    let sent = xdc_grid::chain::deploy::execute(rpc.as_ref(), CHAIN_ID, &remote, intent, pace());
    grid.anvil.mining(sent).await.unwrap();
    let after = grid.client.epoch_state(xdc_grid::chain::At::Latest).await.unwrap().reward_pool;
    assert_eq!(after.0, before.0 + Wei::XDC.0);
}

#[tokio::test]
async fn a_remote_signer_that_has_not_the_key_or_signs_with_another_is_not_believed() {
    let (ours, other) = (key(3), key(4));
    let (server, url) = SigningServer::start(&[&other]).await;
    let missing = RemoteSigner::connect(&options(&url, &ours)).await.unwrap_err();
    assert!(matches!(&missing, ChainError::InvalidSigner { .. }) && !missing.is_transient(), "{missing}");
    assert!(missing.to_string().contains(&ours.address().to_string()), "{missing}");

    let remote = RemoteSigner::connect(&options(&url, &other)).await.unwrap();
    *server.swapped.lock().unwrap() = true;
    let swapped = remote.sign(b"payload").await.unwrap_err();
    assert!(swapped.to_string().contains(&key(77).address().to_string()), "{swapped}");
    server.keys.lock().unwrap().clear();
    let gone = remote.sign(b"payload").await.unwrap_err();
    assert!(gone.is_transient(), "{gone}");
    let nobody = RemoteSigner::connect(&options("http://127.0.0.1:9", &ours)).await.unwrap_err();
    assert_eq!((nobody.label(), nobody.is_transient()), ("SignerUnavailable", true));
}

#[tokio::test]
async fn over_mutual_tls_both_sides_show_a_certificate_of_an_authority_that_the_other_knows() {
    let (ours, authority, another) = (key(3), Authority::new(), Authority::new());
    let (server, url) = SigningServer::start_tls(&[&ours], &authority).await;
    let with = |tls: SignerTls| RemoteSignerOptions { tls, ..options(&url, &ours) };
    let client = authority.client();
    let remote = RemoteSigner::connect(&with(tls(Some(&client), &authority))).await.unwrap();
    let signed = remote.sign(b"payload").await.unwrap();
    assert_eq!(signed, Signer::sign(&ours, b"payload").await.unwrap());
    assert_eq!(server.signed(), 1);

    let stranger = another.client();
    for (why, tls) in [
        ("without a certificate", tls(None, &authority)),
        ("with one of another authority", tls(Some(&stranger), &authority)),
        ("to a signer of another authority", tls(Some(&client), &another)),
        ("to a signer of an authority that the machine does not know", SignerTls::default()),
    ] {
        let refused = RemoteSigner::connect(&with(tls)).await.unwrap_err();
        assert_eq!((refused.label(), refused.is_transient()), ("SignerUnavailable", true), "{why}: {refused}");
        println!("{why}: {refused}");
    }
    // The one whose certificate is not known is told so, and not only that something failed.
    let unknown = RemoteSigner::connect(&with(tls(Some(&client), &another))).await.unwrap_err();
    assert!(unknown.to_string().contains("certificate"), "{unknown}");

    let mixed = SignerTls { key: pem("client.key", &stranger.key), ..tls(Some(&client), &authority) };
    let mixed = RemoteSigner::connect(&with(mixed)).await.unwrap_err();
    assert_eq!((mixed.label(), mixed.is_transient()), ("SignerInvalid", false), "{mixed}");
    assert_eq!(server.signed(), 1, "nobody else had anything signed");
}
