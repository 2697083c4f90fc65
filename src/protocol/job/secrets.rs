//! Where a job's external secrets are kept (`secrets`).
//!
//! Texts may hold references to variables. Fields that may hold a token itself do not print.

use crate::secret::Secret;

objects! {
    /// Where one secret is kept; one of the six stores is given.
    #[derive(Debug)]
    pub struct SecretSpec {
        /// In a Vault server.
        pub vault: Option<VaultSecret>,
        /// In an Azure key vault.
        pub azure_key_vault: Option<AzureSecret>,
        /// In Google Cloud.
        pub gcp_secret_manager: Option<GcpSecret>,
        /// In AWS.
        pub aws_secrets_manager: Option<AwsSecret>,
        /// In GitLab itself.
        pub gitlab_secrets_manager: Option<GitlabSecret>,
        /// In Akeyless.
        pub akeyless: Option<AkeylessSecret>,
        /// Whether the job is to be given a file with the secret, and its path.
        pub file: bool = true,
        /// A reference to the variable with the token to get in with, such as `$ID_TOKEN`.
        pub token: Option<Secret>,
    }

    /// A secret in a Vault server.
    #[derive(Debug)]
    pub struct VaultSecret {
        /// The secrets engine.
        pub engine: SecretEngine,
        /// The path within the engine.
        pub path: String,
        /// The field to read.
        pub field: String,
        /// The server.
        pub server: VaultServer,
    }

    /// A secrets engine of Vault.
    #[derive(Debug)]
    pub struct SecretEngine {
        /// Its kind, such as `kv-v2`.
        pub name: String,
        /// Where it is mounted.
        pub path: String,
    }

    /// A Vault server.
    #[derive(Debug)]
    pub struct VaultServer {
        /// Its URL.
        pub url: String,
        /// The namespace in it.
        pub namespace: Option<String>,
        /// How to get in.
        pub auth: VaultAuth,
    }

    /// How to get into a Vault server.
    #[derive(Debug)]
    pub struct VaultAuth {
        /// The method: `jwt`.
        pub name: String,
        /// Where it is mounted.
        pub path: String,
        /// What to show.
        pub data: VaultAuthData,
    }

    /// What to show to a Vault server.
    #[derive(Debug)]
    pub struct VaultAuthData {
        /// The token.
        pub jwt: Option<Secret>,
        /// The role to take.
        pub role: Option<String>,
    }

    /// A secret in an Azure key vault.
    #[derive(Debug)]
    pub struct AzureSecret {
        /// Its name.
        pub name: String,
        /// Its version; the latest if there is none.
        pub version: Option<String>,
        /// The server.
        pub server: AzureServer,
    }

    /// An Azure key vault.
    #[derive(Debug)]
    pub struct AzureServer {
        /// Its URL.
        pub url: Option<String>,
        /// The client to get in as.
        pub client_id: Option<String>,
        /// The tenant.
        pub tenant_id: Option<String>,
        /// The token.
        pub jwt: Option<Secret>,
    }

    /// A secret in Google Cloud.
    #[derive(Debug)]
    pub struct GcpSecret {
        /// Its name.
        pub name: String,
        /// Its version, such as `latest`.
        pub version: Option<String>,
        /// The server.
        pub server: GcpServer,
    }

    /// A project of Google Cloud.
    #[derive(Debug)]
    pub struct GcpServer {
        /// Its number.
        pub project_number: Option<String>,
        /// The pool of identities.
        pub workload_identity_federation_pool_id: Option<String>,
        /// The provider in the pool.
        pub workload_identity_federation_provider_id: Option<String>,
        /// The token.
        pub jwt: Option<Secret>,
    }

    /// A secret in AWS.
    #[derive(Debug)]
    pub struct AwsSecret {
        /// Its name or ARN.
        pub secret_id: String,
        /// Its version.
        pub version_id: Option<String>,
        /// The stage of its version.
        pub version_stage: Option<String>,
        /// The field to read; all of it if there is none.
        pub field: Option<String>,
        /// The region; the server's if there is none.
        pub region: Option<String>,
        /// The role to take; the server's if there is none.
        pub role_arn: Option<String>,
        /// The name of the session; the server's if there is none.
        pub role_session_name: Option<String>,
        /// The server.
        pub server: AwsServer,
    }

    /// A region of AWS.
    #[derive(Debug)]
    pub struct AwsServer {
        /// Its name.
        pub region: Option<String>,
        /// The token.
        pub jwt: Option<Secret>,
        /// The role to take.
        pub role_arn: Option<String>,
        /// The name of the session.
        pub role_session_name: Option<String>,
    }

    /// A secret in GitLab itself.
    #[derive(Debug)]
    pub struct GitlabSecret {
        /// The path within the engine.
        pub path: String,
        /// The field to read.
        pub field: String,
        /// The secrets engine.
        pub engine: SecretEngine,
        /// The server.
        pub server: GitlabSecretServer,
    }

    /// The server of GitLab's own secrets.
    #[derive(Debug)]
    pub struct GitlabSecretServer {
        /// Its URL.
        pub url: String,
        /// How to get in, along with each request.
        pub inline_auth: InlineAuth,
    }

    /// How to get in at the server of GitLab's own secrets.
    #[derive(Debug)]
    pub struct InlineAuth {
        /// The path to log in at.
        pub path: String,
        /// The token.
        pub jwt: Option<Secret>,
        /// The role to take.
        pub role: Option<String>,
        /// Where the method is mounted.
        pub auth_mount: Option<String>,
    }

    /// A secret in Akeyless.
    #[derive(Debug)]
    pub struct AkeylessSecret {
        /// Its name.
        pub name: Option<String>,
        /// The server.
        pub server: AkeylessServer,
    }

    /// The server of Akeyless, and the many ways to get in.
    #[derive(Debug)]
    pub struct AkeylessServer {
        /// The access to use.
        pub access_id: Option<String>,
        /// Its key.
        pub access_key: Option<Secret>,
        /// The URL of the server.
        pub akeyless_api_url: Option<String>,
        /// Which way to get in.
        pub akeyless_access_type: Option<String>,
        /// A token of Akeyless.
        pub akeyless_token: Option<Secret>,
        /// A universal identity token.
        pub uid_token: Option<Secret>,
        /// The audience for Google Cloud.
        pub gcp_audience: Option<String>,
        /// The object for Azure.
        pub azure_object_id: Option<String>,
        /// The token of a Kubernetes service account.
        pub k8s_service_account_token: Option<Secret>,
        /// The name of the Kubernetes configuration.
        pub k8s_auth_config_name: Option<String>,
        /// The certificate of the gateway.
        pub gateway_ca_certificate: Option<String>,
        /// The token.
        pub jwt: Option<Secret>,
    }
}

impl SecretSpec {
    /// All that lets somebody in, references to variables among it.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &Secret> {
        let Self {
            vault,
            azure_key_vault,
            gcp_secret_manager,
            aws_secrets_manager,
            gitlab_secrets_manager,
            akeyless,
            file: _,
            token,
        } = self;
        let akeyless = akeyless.iter().flat_map(|it| {
            let server = &it.server;
            [
                &server.access_key,
                &server.akeyless_token,
                &server.uid_token,
                &server.k8s_service_account_token,
                &server.jwt,
            ]
        });
        let vault = vault.iter().map(|it| &it.server.auth.data.jwt);
        let azure = azure_key_vault.iter().map(|it| &it.server.jwt);
        let gcp = gcp_secret_manager.iter().map(|it| &it.server.jwt);
        let aws = aws_secrets_manager.iter().map(|it| &it.server.jwt);
        let gitlab = gitlab_secrets_manager.iter();
        let gitlab = gitlab.map(|it| &it.server.inline_auth.jwt);
        [token]
            .into_iter()
            .chain(vault)
            .chain(azure)
            .chain(gcp)
            .chain(aws)
            .chain(gitlab)
            .chain(akeyless)
            .flatten()
    }
}
