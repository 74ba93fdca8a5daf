//! Actors: the local operator, people and programs. All of them use the public API.

use latchkey::proto::v1::{self, sign_in_progress::Step};
use latchkey::proto::v1::{audit_client::AuditClient, auth_client::AuthClient, user_admin_client::UserAdminClient};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Harness, PASSWORD};

/// A connection with a credential, which is sent with every call.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    pub metadata: Credentials,
}

/// Metadata sent with each call.
#[derive(Clone, Default)]
pub struct Credentials {
    pub bearer: Option<String>,
    pub more: Vec<(&'static str, String)>,
}

impl tonic::service::Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bearer = self.bearer.iter().map(|token| ("authorization", format!("Bearer {token}")));
        for (name, value) in bearer.chain(self.more.iter().cloned()) {
            let value: MetadataValue<_> = value.parse().map_err(|_| Status::internal("metadata"))?;
            request.metadata_mut().append(name, value);
        }
        Ok(request)
    }
}

type Intercepted = InterceptedService<Channel, Credentials>;

impl Client {
    /// An anonymous client on the network, connected to `127.0.0.1:…`.
    pub async fn at(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        Client { channel: endpoint.connect().await.expect("a connection"), metadata: Credentials::default() }
    }

    /// The same, from another address of this machine, such as `127.0.0.9`.
    pub async fn from(address: &str, local: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        let endpoint = endpoint.local_address(Some(local.parse().expect("an address")));
        Client { channel: endpoint.connect().await.expect("a connection"), metadata: Credentials::default() }
    }

    /// The same, but connects on demand: before the server starts, and again after it restarts.
    pub fn lazily_at(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        Client { channel: endpoint.connect_lazy(), metadata: Credentials::default() }
    }

    /// The local operator, by the server's local socket.
    pub async fn on_socket(socket: &std::path::Path) -> Client {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://local");
        let channel = endpoint.connect_with_connector(connect).await.expect("the local socket");
        Client { channel, metadata: Credentials::default() }
    }

    pub fn user_admin(&self) -> UserAdminClient<Intercepted> {
        UserAdminClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn auth(&self) -> AuthClient<Intercepted> {
        AuthClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn audit(&self) -> AuditClient<Intercepted> {
        AuditClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The same connection with another bearer token.
    pub fn bearing(&self, token: &str) -> Client {
        Client { channel: self.channel.clone(), metadata: Credentials { bearer: Some(token.to_owned()), more: vec![] } }
    }

    /// The same connection with additional metadata.
    pub fn with(&self, name: &'static str, value: &str) -> Client {
        let mut client = self.clone();
        client.metadata.more.push((name, value.to_owned()));
        client
    }

    /// The account as an operator sees it.
    pub async fn user(&self, username: &str) -> v1::User {
        let request = v1::GetUserRequest { user: Some(named(username)) };
        let answer = self.user_admin().get_user(request).await.expect("a user").into_inner();
        answer.user.expect("a user")
    }

    pub async fn lock(&self, username: &str) -> Result<v1::LockUserResponse, Status> {
        let request = v1::LockUserRequest { user: Some(named(username)), ..Default::default() };
        self.user_admin().lock_user(request).await.map(tonic::Response::into_inner)
    }

    /// Locks as compromised.
    pub async fn contain(&self, username: &str) -> Result<v1::LockUserResponse, Status> {
        self.lock_for(username, v1::LockCause::Compromise).await
    }

    pub async fn lock_for(&self, username: &str, cause: v1::LockCause) -> Result<v1::LockUserResponse, Status> {
        let request = v1::LockUserRequest { user: Some(named(username)), cause: cause.into(), ..Default::default() };
        self.user_admin().lock_user(request).await.map(tonic::Response::into_inner)
    }

    pub async fn unlock(&self, username: &str) -> Result<v1::UnlockUserResponse, Status> {
        let request = v1::UnlockUserRequest { user: Some(named(username)), ..Default::default() };
        self.user_admin().unlock_user(request).await.map(tonic::Response::into_inner)
    }

    /// Resets to a temporary password.
    pub async fn reset(&self, username: &str) -> Result<v1::ResetPasswordResponse, Status> {
        let method = v1::reset_password_request::Method::TemporaryPassword(v1::TemporaryPassword::default());
        let request =
            v1::ResetPasswordRequest { user: Some(named(username)), method: Some(method), ..Default::default() };
        self.user_admin().reset_password(request).await.map(tonic::Response::into_inner)
    }

    pub async fn sign_in(&self, login: &str, password: &str) -> Result<Step, Status> {
        let request =
            v1::SignInRequest { login: login.to_owned(), password: password.to_owned(), ..Default::default() };
        let answer = self.auth().sign_in(request).await?.into_inner();
        Ok(answer.progress.and_then(|progress| progress.step).expect("a step"))
    }

    /// Signs in with a device token and returns the tokens.
    pub async fn with_device(&self, login: &str, password: &str, device_token: &str) -> Result<v1::TokenSet, Status> {
        let (login, password, device_token) = (login.to_owned(), password.to_owned(), device_token.to_owned());
        let request = v1::SignInRequest { login, password, device_token, ..Default::default() };
        match self.auth().sign_in(request).await?.into_inner().progress.and_then(|progress| progress.step) {
            Some(Step::Tokens(tokens)) => Ok(tokens),
            other => panic!("no tokens: {other:?}"),
        }
    }

    /// Signs in and returns the tokens.
    pub async fn tokens(&self, login: &str, password: &str) -> Result<v1::TokenSet, Status> {
        match self.sign_in(login, password).await? {
            Step::Tokens(tokens) => Ok(tokens),
            step => panic!("another step: {step:?}"),
        }
    }

    /// Signs in and returns the password-change step.
    pub async fn change_step(&self, login: &str, password: &str) -> Result<v1::PasswordChangeStep, Status> {
        match self.sign_in(login, password).await? {
            Step::PasswordChange(step) => Ok(step),
            step => panic!("another step: {step:?}"),
        }
    }

    pub async fn refresh(&self, refresh_token: &str) -> Result<v1::TokenSet, Status> {
        let request = v1::RefreshTokensRequest { refresh_token: refresh_token.to_owned(), ..Default::default() };
        let answer = self.auth().refresh_tokens(request).await?.into_inner();
        Ok(answer.tokens.expect("tokens"))
    }

    /// All events so far, oldest first.
    pub async fn events(&self) -> Vec<v1::Event> {
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListEventsRequest { page_token, page_size: 500, ..Default::default() };
            let page = self.audit().list_events(request).await.expect("events").into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        events.reverse();
        events
    }
}

/// A person with a password of their own.
pub struct Person {
    pub name: String,
    pub password: String,
    /// A client that is signed in.
    pub client: Client,
    pub tokens: v1::TokenSet,
}

/// Refers to a user by username.
pub fn named(username: &str) -> v1::UserRef {
    v1::UserRef { r#ref: Some(v1::user_ref::Ref::Username(username.to_owned())) }
}

impl Harness {
    /// An anonymous client on the network.
    pub async fn stranger(&self) -> Client {
        Client::at(&self.address()).await
    }

    /// An anonymous client at another address of this machine.
    pub async fn stranger_at(&self, local: &str) -> Client {
        Client::from(&self.address(), local).await
    }

    /// The local operator, by the local socket.
    pub async fn operator(&self) -> Client {
        Client::on_socket(self.socket()).await
    }

    /// A signed-in administrator named `root`.
    pub async fn admin(&self) -> Person {
        self.person("root", &["admin"]).await
    }

    /// A signed-in user without roles.
    pub async fn user(&self, username: &str) -> Person {
        self.person(username, &[]).await
    }

    /// A signed-in user with roles.
    pub async fn person(&self, username: &str, roles: &[&str]) -> Person {
        self.create(username, roles, PASSWORD).await;
        self.signed_in(username, PASSWORD).await
    }

    /// Creates an account with a permanent password, without signing in.
    pub async fn create(&self, username: &str, roles: &[&str], password: &str) {
        let request = v1::CreateUserRequest {
            username: username.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            credential: Some(v1::create_user_request::Credential::Password(password.to_owned())),
            password_change_required: Some(false),
            ..Default::default()
        };
        self.operator().await.user_admin().create_user(request).await.expect("a new user");
    }

    /// Signs a user in.
    pub async fn signed_in(&self, username: &str, password: &str) -> Person {
        let stranger = self.stranger().await;
        let tokens = stranger.tokens(username, password).await.expect("tokens");
        let client = stranger.bearing(&tokens.access_token);
        Person { name: username.to_owned(), password: password.to_owned(), client, tokens }
    }

    /// A program whose API token has these scopes. Its user is a service named `service` with the role admin.
    pub async fn token(&self, scopes: &[&str]) -> Client {
        let operator = self.operator().await;
        let request = v1::CreateUserRequest {
            username: "service".to_owned(),
            kind: v1::UserKind::Service.into(),
            roles: vec!["admin".to_owned()],
            ..Default::default()
        };
        // If the test already has a token, the user exists.
        let _ = operator.user_admin().create_user(request).await;
        let secret = operator.api_token("service", scopes).await;
        self.stranger().await.bearing(&secret)
    }
}

impl Client {
    /// Creates an API token and returns its secret.
    pub async fn api_token(&self, username: &str, scopes: &[&str]) -> String {
        let request = v1::CreateApiTokenRequest {
            user: Some(named(username)),
            name: "a test".to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            ttl: None,
        };
        self.user_admin().create_api_token(request).await.expect("an API token").into_inner().secret
    }
}
