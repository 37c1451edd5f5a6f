//! Whose certificate an upstream may show: the system's roots, and what `NODE_EXTRA_CA_CERTS` adds to them.
//!
//! A certificate of that file counts as a root, and a server may also show it itself, as Node allows: `openssl req -x509` makes a server's
//! certificate that is marked as an authority, which `webpki` refuses at a server (`CaUsedAsEndEntity`). That one refusal is lifted, for the
//! very certificates of the file only; name and time are checked as for any other.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What TLS needs.
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// What went wrong with the extra certificates: Claude Code goes on without them, and so do we.
    pub(super) extra_ca_problem: Option<String>,
}

impl Tls {
    /// Reads the roots, which are some hundred files.
    pub(super) fn load(extra_ca: Option<&Path>) -> Result<Self, ()> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let mut named = Vec::new();
        let extra_ca_problem = extra_ca.and_then(|path| add_extra(&mut roots, &mut named, path).err());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(drop)?;
        let builder = if named.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let verifier = NamedToo::new(roots, named, provider).map_err(drop)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), extra_ca_problem })
    }
}

fn add_extra(roots: &mut RootCertStore, named: &mut Vec<CertificateDer<'static>>, path: &Path) -> Result<(), String> {
    let problem = |why: &dyn std::fmt::Display| format!("NODE_EXTRA_CA_CERTS={} was not used: {why}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| problem(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| problem(&error))?;
        roots.add(certificate.clone()).map_err(|error| problem(&error))?;
        named.push(certificate);
    }
    Ok(())
}

/// The usual check, which lets the certificates of the extra file through at a server too.
#[derive(Debug)]
struct NamedToo {
    usual: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl NamedToo {
    fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        Ok(Self { usual: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?, named })
    }
}

impl ServerCertVerifier for NamedToo {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // `webpki` looks at the time before that, and at the name after it.
            Err(error) if is_an_authority(&error) && self.named.iter().any(|named| named == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Whether all that is wrong so far is that an authority's certificate stands at a server.
fn is_an_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}
