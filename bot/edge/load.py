"""Loads a configuration into an edge's Caddy, in one LXD command, as each command costs LXD some 60 milliseconds."""

from __future__ import annotations

import logging

from bot.edge.caddy import ADMIN
from bot.lxd.protocol import Lxd, LxdError

log = logging.getLogger(__name__)
CONFIG = "/etc/caddy/edge.json"
"""The configuration that Caddy starts with: the last one that it accepted, or an older one where the disk was too full
for that."""
_PATIENCE = 300
_LOAD = r"""
use strict; use Fcntl ":flock"; use Socket;
my ($admin, $place, @before) = @ARGV;
$| = 1; $SIG{PIPE} = "IGNORE";
# LXD may lose what is said by a program that ends just then.
sub answer { my ($word) = @_; $word =~ s/\s+/ /g; print substr($word, 0, 2000), "\n"; <STDIN>; exit }
sub unkept { my $why = "unkept $_[0]: $!"; unlink $_[0]; answer($why) }
sub content { open my $file, "<:raw", $_[0] or return ""; local $/; return <$file> // "" }
chomp(my $length = <STDIN>);
read(STDIN, my $config, $length) == $length or exit 1;
system(@before) == 0 || answer("$before[0] failed") if @before;
# Another bot, or `make up`, may be at it too.
my ($folder) = $place =~ m|(.*)/|;
open my $turn, "<", $folder or answer("$folder: $!");
flock $turn, LOCK_EX or answer("$folder: $!");
# What is in memory goes with Caddy: as long as this is there, Caddy may go by something else than the file has.
my $unsure = "$admin.unsure";
answer("same") if content($place) eq $config and not -e $unsure;
socket my $caddy, PF_UNIX, SOCK_STREAM, 0 or answer("socket: $!");
connect $caddy, sockaddr_un($admin) or answer("Caddy does not answer: $!");
# A folder, which leads nowhere: the place is Caddy's own.
mkdir $unsure or -e $unsure or answer("$unsure: $!");
my $head = "POST /load HTTP/1.1\r\nHost:\r\nContent-Type: application/json\r\nConnection: close\r\n";
my $request = "${head}Content-Length: $length\r\n\r\n$config";
for (my $sent = 0; $sent < length $request;) {
  $sent += syswrite($caddy, $request, length($request) - $sent, $sent) // answer("Caddy does not listen: $!");
}
my $said = do { local $/; <$caddy> } // "";
my ($status, $why) = $said =~ m|\AHTTP/1.1 (\d+).*?\r\n\r\n(.*)\z|s or answer("Caddy said nothing");
answer("Caddy refused it ($status): $why") if $status != 200;
# The file that a restart reads is replaced only by what was loaded well.
my $new = "$folder/.next.json";
umask 022;
unlink $new;
open my $file, ">:raw", $new or unkept($new);
print $file $config and close $file or unkept($new);
rename $new, $place or unkept($new);
rmdir $unsure;
answer("loaded");
"""
"""Perl, which every Debian has, in place of `caddy reload`, whose start alone takes as long as all the rest."""


def load(lxd: Lxd, name: str, config: str, *, first: tuple[str, ...] = ()) -> None:
    """Make the Caddy of an edge use a configuration, without dropping a connection; no effect where it already does.

    Raises LxdError with Caddy's own reason when Caddy refuses the configuration and keeps the previous one. On a
    full disk Caddy still serves by the new configuration, but a restart would use the stored older one; so the next
    call loads and stores it again, even if it is unchanged. `first`: a command that is run before in any case.
    """
    content = config.encode()
    command = ["/usr/bin/perl", "-e", _LOAD, ADMIN.removeprefix("unix/"), CONFIG, *first]
    with lxd.talk(name, command, timeout=_PATIENCE, limit=1 << 12) as talk:
        talk.send(f"{len(content)}\n".encode() + content)
        said = talk.line().decode(errors="replace")
    if said.startswith("unkept "):
        log.warning("`%s` serves, and a restart of it would go by older routes: %s", name, said)
    elif said not in ("loaded", "same"):
        raise LxdError(f"Inside `{name}`: {said}")
