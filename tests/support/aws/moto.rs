//! moto: a server nobody here wrote, to see that it takes our calls. It checks signatures and a role's trusted principal.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use aws_credential_types::Credentials;

use crate::support::python;

/// The role, in the one account that moto knows.
pub(crate) const ROLE_IN_MOTO: &str = "arn:aws:iam::123456789012:role/sentrely-agent";

/// A running moto server that enforces IAM. It ends when dropped.
pub(crate) struct Moto {
    child: Child,
    url: String,
    developer: Credentials,
}

/// Makes the developer and the role, then prints the developer's key. The first calls are not checked by moto: as many as
/// this makes.
const SETUP: &str = r#"
import boto3, json, sys
url = sys.argv[1]
iam = boto3.client("iam", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
account = "123456789012"
role = "arn:aws:iam::%s:role/sentrely-agent" % account
iam.create_user(UserName="ana")
key = iam.create_access_key(UserName="ana")["AccessKey"]
allow = lambda **more: json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **more}]})
sts = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
iam.put_user_policy(UserName="ana", PolicyName="start", PolicyDocument=allow(Action=sts, Resource=role))
iam.create_role(RoleName="sentrely-agent", AssumeRolePolicyDocument=allow(Action=sts, Principal={"AWS": "arn:aws:iam::%s:user/ana" % account}))
print(key["AccessKeyId"], key["SecretAccessKey"])
"#;
const CALLS_OF_SETUP: &str = "4";

impl Moto {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        let mut server = Command::new(python::program("moto_server"));
        server.args(["-H", "127.0.0.1", "-p", "0"]).env("INITIAL_NO_AUTH_ACTION_COUNT", CALLS_OF_SETUP);
        let mut child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = words.find_map(|line| line.unwrap().split_once("Running on ").map(|(_, url)| url.trim().to_owned())).unwrap();
        // Else the server would block on a full pipe.
        std::thread::spawn(move || words.for_each(drop));
        let setup = Command::new(python::program("python")).args(["-c", SETUP, &url]).output().unwrap();
        let printed = String::from_utf8(setup.stdout).unwrap();
        let (id, secret) = printed.trim().split_once(' ').unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&setup.stderr)));
        let developer = Credentials::new(id, secret, None, None, "test");
        Self { child, url, developer }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn developer(&self) -> Credentials {
        self.developer.clone()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
