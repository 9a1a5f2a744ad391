//! The one table of what a plan may name: a row is a name, its variant and the type of its arguments.

/// Makes of a table the enum that a plan spells, the list of its names, and a method that does the
/// same with whatever was named: its body is compiled once for each row. With a trait in brackets it
/// lists what may be named inside of each row, too.
macro_rules! family {
    (
        $(#[$doc:meta])*
        $Family:ident[$Inside:ident]: $method:ident($($arguments:tt)*) -> $Out:ty { $body:expr }
        $($(#[$row:meta])* $name:literal => $Kind:ident($Arguments:ty),)+
    ) => {
        family! {
            $(#[$doc])*
            $Family: $method($($arguments)*) -> $Out { $body }
            $($(#[$row])* $name => $Kind($Arguments),)+
        }

        impl $Family {
            /// What a plan may name inside of each.
            pub const FAMILIES: &'static [(&'static str, &'static [&'static str])] =
                &[$(($name, <$Arguments as $Inside>::INSIDE)),+];
        }
    };
    (
        $(#[$doc:meta])*
        $Family:ident: $method:ident($x:ident $(, $argument:ident: $Argument:ty)*) -> $Out:ty
        { $body:expr }
        $($(#[$row:meta])* $name:literal => $Kind:ident($Arguments:ty),)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, serde::Deserialize)]
        pub enum $Family {
            $($(#[$row])* #[serde(rename = $name)] $Kind($Arguments),)+
        }

        impl $Family {
            /// What a plan may name here.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Does the same with whatever was named.
            pub fn $method(self $(, $argument: $Argument)*) -> $Out {
                match self { $(Self::$Kind($x) => $body,)+ }
            }
        }
    };
}

pub(crate) use family;
