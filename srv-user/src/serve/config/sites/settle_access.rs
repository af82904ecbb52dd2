//! From the keys of a site or route about its clients to the settings: what routes inherit, and the
//! file of users.

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::access::{Access, Auth, Network, Rate, Realm};
use super::args::{AuthArgs, AuthSwitch, PlaceArgs, RateArgs, Text};
use super::settle::Settling;
use super::users;

impl Settling<'_> {
    /// What `args` make of `base`. A route that names networks inherits none.
    pub(super) fn access(&self, args: &PlaceArgs<'_>, base: Access) -> Result<Access> {
        let mut access = base;
        if args.allow.is_some() || args.deny.is_some() {
            access.allow = self.networks(args.allow)?;
            access.deny = self.networks(args.deny)?;
        }
        match args.auth {
            None => {}
            Some(AuthSwitch::Off) => access.auth = None,
            Some(AuthSwitch::On(auth)) => access.auth = Some(self.auth(auth)?),
        }
        if let Some(rate) = args.rate {
            access.rate = Some(settled(rate));
        }
        if let Some(most) = args.limits.and_then(|limits| limits.body_bytes) {
            access.body_bytes = Some(most.into());
        }
        Ok(access)
    }

    fn networks(&self, texts: Option<&Vec<Text>>) -> Result<Vec<IpNet>> {
        let texts = texts.into_iter().flatten();
        let networks = texts.map(|text| self.parsed(text).map(|Network(network)| network));
        networks.collect()
    }

    fn auth(&self, args: &AuthArgs) -> Result<Auth> {
        let Realm(realm) = self.parsed(&args.realm)?;
        let path = args.users.as_ref();
        (self.note)(path);
        let users = users::read(path).with_context(|| {
            let place = self.places.at(args.users.span().start);
            format!(
                "{place}: found `{}`, expected a file of users",
                path.display()
            )
        })?;
        Ok(Auth {
            realm,
            file: std::path::absolute(path).context("make the path of the users absolute")?,
            users,
        })
    }
}

fn settled(rate: &RateArgs) -> Rate {
    let per_second = rate.per_second.map_or(1, Into::into);
    Rate {
        per_second,
        burst: rate.burst.map_or(per_second, Into::into),
    }
}
