//! The grain's border: the membrane between the app and everything outside, and saving across it.
//!
//! Trust: inside is the app, outside the shell and whatever it passes on. The system's own
//! interfaces for persistence end here: nobody outside can ask the app's objects for their ids, nor
//! the app outside objects for their tokens. `Persistent.save` from outside on an app's object is
//! answered by us: the app names its object, the system makes a token for that name.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::{Client, FromClientHook};
use capnp::private::capability::ClientHook;
use capnp::traits::HasTypeId;
use capnp::{Error, any_pointer};
use sandstorm_schema::grain_capnp::{app_persistent, main_view};
use sandstorm_schema::persistent_capnp::persistent;
use sandstorm_schema::rpc::membrane::{Crossing, Direction, Membrane, MembranePolicy};
use sandstorm_schema::supervisor_capnp::{api_token_owner, sandstorm_core, system_persistent};

use super::core::CoreSlot;
use crate::grain::life::Life;

type AnyMainView = main_view::Client<any_pointer::Owned>;
type AnyAppPersistent = app_persistent::Client<any_pointer::Owned>;
type SystemSave = persistent::Client<capnp::data::Owned, api_token_owner::Owned>;

/// Longer than the supervisor itself waits for the reason.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A token, and the object (by its hook) that it was restored to.
type Restored = (Vec<u8>, usize);

/// Makes a membrane around the app.
///
/// Objects that were restored by a token get a membrane of their own that knows it: saved again,
/// they become children of that token, and go when it is revoked.
pub fn around_the_app(
    life: &Rc<Life>,
    core: &Rc<CoreSlot>,
    restored: Option<Restored>,
) -> Membrane {
    let policy = Rc::new(Policy {
        life: life.clone(),
        shared: Rc::new(Shared { core: core.clone(), restored, membrane: OnceCell::new() }),
    });
    let shared = policy.shared.clone();
    let membrane = Membrane::new(policy);
    // A cycle that lasts as long as the process, as the grain's border does.
    let _ = shared.membrane.set(membrane.clone());
    membrane
}

struct Shared {
    core: Rc<CoreSlot>,
    restored: Option<Restored>,
    membrane: OnceCell<Membrane>,
}

struct Policy {
    life: Rc<Life>,
    shared: Rc<Shared>,
}

impl MembranePolicy for Policy {
    fn check(&self, crossing: Crossing) -> Result<(), Error> {
        let system_only = |what: &str| Err(Error::failed(format!("only the system may {what}")));
        match (crossing.direction, crossing.interface) {
            (Direction::Inward, AnyAppPersistent::TYPE_ID) => {
                system_only("ask an app for an object's id")
            }
            (Direction::Inward, AnyMainView::TYPE_ID) => system_only("restore an app's objects"),
            (Direction::Inward, system_persistent::Client::TYPE_ID) => Err(Error::unimplemented(
                "an app's object cannot take further requirements yet".into(),
            )),
            (Direction::Inward, _) => {
                self.life.sign();
                Ok(())
            }
            (Direction::Outward, SystemSave::TYPE_ID | system_persistent::Client::TYPE_ID) => {
                system_only("save this object: use SandstormApi.save")
            }
            (Direction::Outward, _) => Ok(()),
        }
    }

    fn last_words(&self, direction: Direction) -> Duration {
        match direction {
            // The app's exit status comes a moment after its connection broke.
            Direction::Inward => LAST_WORDS,
            Direction::Outward => Duration::ZERO,
        }
    }

    fn stand_in(&self, crossing: Crossing, callee: &dyn ClientHook) -> Option<Client> {
        let save = crossing.direction == Direction::Inward
            && crossing.interface == SystemSave::TYPE_ID
            && crossing.method == 0;
        save.then(|| {
            let saver: SystemSave = capnp_rpc::new_client(SaverImpl {
                object: callee.add_ref(),
                shared: self.shared.clone(),
            });
            saver.client
        })
    }
}

/// Saves one object of the app. Stands on the app's side, so that what the app answers crosses the
/// membrane on its way to the system like everything else.
struct SaverImpl {
    object: Box<dyn ClientHook>,
    shared: Rc<Shared>,
}

impl persistent::Server<capnp::data::Owned, api_token_owner::Owned> for SaverImpl {
    async fn save(
        self: Rc<Self>,
        params: persistent::SaveParams<api_token_owner::Owned>,
        mut results: persistent::SaveResults<capnp::data::Owned>,
    ) -> Result<(), Error> {
        let core = self.shared.core.get().await?;
        let core: sandstorm_core::Client = match self.shared.membrane.get() {
            Some(membrane) => membrane.inward_face(core),
            None => return Err(Error::failed("the grain has no border yet".into())),
        };
        let owner = params.get()?.get_seal_for()?;
        if let Some((parent, _)) =
            self.shared.restored.as_ref().filter(|(_, root)| *root == self.object.get_ptr())
        {
            let mut request = core.make_child_token_request();
            request.get().set_parent(parent);
            request.get().set_owner(owner)?;
            let answer = request.send().promise.await?;
            return results.get().set_sturdy_ref(answer.get()?.get_token()?);
        }
        let object = AnyAppPersistent::new(self.object.add_ref());
        let answer = object.save_request().send().promise.await?;
        let mut request = core.make_token_request();
        request.get().init_ref().init_app_ref().set_as(answer.get()?.get_object_id()?)?;
        request.get().set_owner(owner)?;
        let answer = request.send().promise.await?;
        results.get().set_sturdy_ref(answer.get()?.get_token()?)
    }
}
