#!/bin/sh
# tiny_image.sh OUT.tar.gz: a 1 MB LXD container image that starts in 0.3 s: busybox, DHCP on eth0, httpd on :80.
# It plays a tenant where the stack does not matter: `/usr/bin/python3 -c … VERB` answers as the in-tenant tool does,
# and the login page is there once `identity` was asked for. What is posted to /cgi-bin/submit stands in /var/lib/mautic-ops/submitted once it is acknowledged, and is refused while it is sealed.
set -eu
OUT=$1
BB=${BUSYBOX:-/bin/busybox}
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
R=$W/rootfs
mkdir -p "$W/templates" "$R/proc" "$R/sys" "$R/dev" "$R/run" "$R/tmp" "$R/mnt" "$R/bin" "$R/sbin" "$R/etc" "$R/root" \
    "$R/var/log" "$R/var/lib/mautic-ops" "$R/srv/www/s" "$R/srv/www/cgi-bin" "$R/etc/nginx" "$R/usr/bin" "$R/usr/sbin" "$R/usr/local/sbin"
chmod 1777 "$R/tmp"
chmod 700 "$R/root"
cp "$BB" "$R/bin/busybox"
for applet in sh env cat echo ls cp mv rm mkdir ln sleep ps kill ip hostname nc dd sync date du df seq grep sed awk \
    head tail wc sha256sum stat touch chmod chown id true false timeout tr yes httpd udhcpc ping basename; do
    ln -s busybox "$R/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$R/etc/passwd"
echo 'root:x:0:' > "$R/etc/group"
echo '127.0.0.1 localhost' > "$R/etc/hosts"
echo ok > "$R/srv/www/index.html"

cat > "$R/etc/lease" <<'I'
#!/bin/sh
case "$1" in
bound | renew)
    ip addr flush dev $interface
    ip addr add $ip/${mask:-24} dev $interface
    [ -z "$router" ] || ip route replace default via ${router%% *} dev $interface
    ;;
deconfig) ip link set $interface up ;;
esac
I

# PID 1 ends, and so stops the container, at LXD's shutdown signal; `wait` takes in orphans.
cat > "$R/sbin/init" <<'I'
#!/bin/sh
trap 'exit 0' PWR TERM INT
ip link set lo up
hostname > /srv/www/hostname
httpd -f -p 80 -h /srv/www &
[ ! -e /sys/class/net/eth0 ] || udhcpc -f -t 20 -T 1 -A 1 -i eth0 -s /etc/lease -x hostname:"$(hostname)" > /dev/null 2>&1 &
while :; do
    sleep 100000 &
    wait $!
done
I

cat > "$R/usr/bin/python3" <<'I'
#!/bin/sh
# Plays `python3 -c START VERB`: a line of JSON comes in, the tool itself, which stays unread, and a line goes out.
umask 077
read -r request
seal=/etc/nginx/sealed mute=/etc/nginx/muted
ok='"ok": true'
case "$3" in
identity)
    echo '<form><input name="_username"><input name="_password"></form> Mautic' > /srv/www/s/login
    chmod 644 /srv/www/s/login
    rm -f $seal
    answer="$ok, \"seconds\": 0"
    ;;
close) echo closed > $seal ;;
open) rm -f $seal $mute ;;
quiesce)
    : > $mute
    [ -e $seal ] || echo moving > $seal
    answer="$ok, \"seconds\": 0"
    ;;
stop_work)
    : > $mute
    [ -e $seal ] || echo moving > $seal
    ;;
unquiesce)
    rm -f $mute
    grep -q closed $seal 2> /dev/null || rm -f $seal
    ;;
backup_lock)
    more="{$ok, \"kept\": true, \"seconds\": 0}"
    answer="$ok, \"held\": true, \"why\": \"\""
    ;;
mail) answer="$ok, \"kinds\": {}, \"waits\": 0, \"oldest\": 0, \"off\": false, \"sent\": 0" ;;
release)
    case "$request" in *'"unmute": true'*) rm -f $mute ;; esac
    answer="$ok, \"choice\": \"send\", \"kinds\": {}, \"waits\": 0, \"oldest\": 0, \"dropped\": 0"
    ;;
counts)
    lines=$(cat /var/lib/mautic-ops/submitted 2> /dev/null | wc -l)
    answer="$ok, \"contacts\": $lines, \"submissions\": $lines, \"opt_outs\": 0, \"last_write\": 0"
    ;;
used) answer="$ok, \"used\": 1000000" ;;
disk) answer="$ok, \"used\": null, \"limit\": null, \"free\": 1000000000000, \"why\": \"it is tiny\"" ;;
logs) answer="$ok, \"text\": \"tiny\"" ;;
console) answer="$ok, \"code\": 0, \"output\": \"tiny\"" ;;
restart | resize | sync) ;;
page) answer="$ok, \"seconds\": 0" ;;
health)
    memory='"memory": 1000000, "memory_limit": null, "log_errors_day": 0'
    facts="\"services\": {}, \"database\": true, \"crons\": {}, $memory, \"closed\": false, \"version\": \"tiny\""
    disk='"disk": {"used": null, "limit": null, "free": 1000000000000, "why": "it is tiny"}'
    answer="$ok, \"healthy\": true, \"checks\": {}, \"facts\": {$facts, $disk}"
    ;;
version) answer="$ok, \"version\": \"tiny\"" ;;
*) answer='"ok": false, "error": "there is no verb '"$3"'"' ;;
esac
echo "{${answer:-$ok}}"
[ -z "$more" ] || echo "$more"
# Who asked ends it.
exec sleep 60
I

cat > "$R/srv/www/cgi-bin/submit" <<'I'
#!/bin/sh
if [ -e /etc/nginx/sealed ]; then
    printf 'Status: 503 Service Unavailable\r\nRetry-After: 5\r\n\r\n'
    exit
fi
head -c "$CONTENT_LENGTH" >> /var/lib/mautic-ops/submitted
echo >> /var/lib/mautic-ops/submitted
printf 'Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nThank you.\n'
I
chmod 755 "$R/etc/lease" "$R/sbin/init" "$R/usr/bin/python3" "$R/srv/www/cgi-bin/submit"

cat > "$W/metadata.yaml" <<I
architecture: $(uname -m)
creation_date: 1700000000
properties: {os: busybox, release: tiny, description: tiny tenant}
templates:
  /etc/hostname: {when: [create, copy, rename], template: hostname.tpl}
I
echo '{{ container.name }}' > "$W/templates/hostname.tpl"
# Reproducible, so that the same image has the same fingerprint.
tar --owner=0 --group=0 --numeric-owner --sort=name --mtime=@1700000000 -C "$W" -cf - metadata.yaml templates rootfs |
    gzip -n1 > "$OUT.part"
mv "$OUT.part" "$OUT"
