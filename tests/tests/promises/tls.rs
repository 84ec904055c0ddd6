//! TLS to Postgres: the connection is encrypted, the server is the one that was meant, and the host shows who it is.

use projectionist_tests::{Cluster, Output, Setup, plugin, wait_until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::sabotage::{note, noted};

/// Somebody who signs certificates.
pub(crate) struct Authority {
    /// Signs.
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub(crate) certificate: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    /// The certificate.
    pub(crate) certificate: String,
    /// The key.
    pub(crate) key: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Signs a certificate for a host and a name.
    pub(crate) fn sign(&self, host: &str, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// A server with TLS, and a place to run hosts in, with the files that they need.
fn place() -> (Cluster, Setup) {
    let authority = Authority::new();
    let server = authority.sign("localhost", "server");
    let cluster = Cluster::start_with_tls(&server.certificate, &server.key, &authority.certificate);
    let setup = Setup::on(&cluster);
    let client = authority.sign("client", "certified");
    drop(setup.file("ca.crt", &authority.certificate));
    drop(setup.file("other.crt", Authority::new().certificate));
    drop(setup.file("client.crt", &client.certificate));
    drop(setup.file("client.key", &client.key));
    (cluster, setup)
}

/// The URL of the setup's database over TCP.
fn url(cluster: &Cluster, setup: &Setup, login: &str, host: &str, options: &str) -> String {
    let shown = setup.source().shown();
    let (_, database) = shown.rsplit_once('/').unwrap();
    format!("postgres://{login}@{host}:{}/{database}?{options}", cluster.port())
}

/// Runs once at this URL.
fn run(setup: &Setup, url: &str) -> Output {
    setup.run(["run", "--once", "--plugin", &plugin("saboteur"), "--database-url", url])
}

#[test]
fn every_connection_of_a_host_is_encrypted_to_the_server_that_was_meant() {
    let (cluster, setup) = place();
    setup.insert(&[note("a")]);
    let url = url(&cluster, &setup, "postgres", "localhost", "sslmode=verify-full&sslrootcert=ca.crt");
    let host = setup.start(["run", "--plugin", &plugin("saboteur"), "--database-url", &url]);
    wait_until("it works", || noted(&setup) == 1);
    let sql = "SELECT application_name, ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE application_name LIKE 'projectionist%'";
    let connections = setup.connect().rows(sql);
    assert!(connections.len() >= 3, "source, worker, heartbeat: {connections:?}");
    assert!(connections.iter().all(|row| row[1] == "true" || row[1] == "t"), "{connections:?}");
    host.terminate();
    host.wait().success();
    setup.run(["status", "--database-url", &url]).success();
}

#[test]
fn another_server_is_refused_and_why_is_told() {
    let (cluster, setup) = place();
    let at = |host: &str, options: &str| url(&cluster, &setup, "postgres", host, options);
    let hint = "hint: check sslmode, sslrootcert, sslcert and sslkey in the URL: ";
    for (host, options) in [
        ("localhost", "sslmode=verify-full&sslrootcert=other.crt"),
        ("localhost", "sslmode=verify-ca&sslrootcert=other.crt"),
        // Of no CA that this machine trusts.
        ("localhost", "sslmode=verify-full"),
        // It is the right server, under a name that its certificate does not have.
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=ca.crt"),
    ] {
        let output = run(&setup, &at(host, options));
        let error = output.exited(1).error();
        assert!(error.starts_with("no secure connection to ") && error.contains(hint), "{options}: {error}");
    }
    for (host, options) in [
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=ca.crt"),
        ("127.0.0.1", "sslmode=require"),
        ("localhost", "sslmode=prefer"),
        ("localhost", ""),
    ] {
        run(&setup, &at(host, options)).success();
    }
    let error = run(&setup, &at("localhost", "sslmode=disable"));
    assert!(error.exited(2).error().contains("no encryption"), "{}", error.error());
}

#[test]
fn a_host_shows_a_certificate_where_one_is_asked_for() {
    let (cluster, setup) = place();
    setup.connect().execute("CREATE ROLE certified LOGIN SUPERUSER");
    let verified = "sslmode=verify-full&sslrootcert=ca.crt";
    let without = run(&setup, &url(&cluster, &setup, "certified", "localhost", verified));
    assert!(without.exited(2).error().contains("certificate"), "{}", without.error());
    let with = format!("{verified}&sslcert=client.crt&sslkey=client.key");
    run(&setup, &url(&cluster, &setup, "certified", "localhost", &with)).success();
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_wanted() {
    let cluster = Cluster::start_with_tls_off();
    let setup = Setup::on(&cluster);
    let output = run(&setup, &url(&cluster, &setup, "postgres", "localhost", "sslmode=require"));
    assert!(output.exited(1).error().contains("server does not support TLS"), "{}", output.error());
}
