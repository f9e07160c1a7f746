// Which hosts are reached through `kubectl relay proxy`; everything else is not.
var facts = FACTS;

function FindProxyForURL(url, host) {
    return isThrough(host.toLowerCase()) ? facts.proxy : "DIRECT";
}

function isThrough(host) {
    var address = bytesOf(host);
    if (address) {
        return some(facts.ranges, function (range) { return contains(range, address); });
    }
    var name = host.charAt(host.length - 1) === "." ? host.slice(0, -1) : host;
    if (name === "localhost" || /\.localhost$/.test(name)) {
        return false;
    }
    var labels = name.split(".");
    if (labels.length === 1) {
        return facts.namespaces.length > 0;
    }
    if (labels.length <= 3 && facts.namespaces.indexOf(labels[labels.length - 1]) >= 0) {
        return true;
    }
    return some(facts.domains, function (domain) {
        var from = name.length - domain.length;
        return name === domain || (from > 0 && name.slice(from) === domain && name.charAt(from - 1) === ".");
    });
}

function some(list, holds) {
    for (var i = 0; i < list.length; i++) {
        if (holds(list[i])) {
            return true;
        }
    }
    return false;
}

// Whether the first bits of both are the same; an IPv4 address is in no IPv6 range.
function contains(range, address) {
    if (range.address.length !== address.length) {
        return false;
    }
    for (var bit = 0; bit < range.bits; bit++) {
        var mask = 128 >> bit % 8, at = Math.floor(bit / 8);
        if ((range.address[at] & mask) !== (address[at] & mask)) {
            return false;
        }
    }
    return true;
}

// The bytes of an address, null for a name.
function bytesOf(host) {
    var text = host.replace(/^\[/, "").replace(/\]$/, "").replace(/%.*$/, "");
    if (text.indexOf(":") < 0) {
        return fourBytes(text);
    }
    var tail = [], last = text.slice(text.lastIndexOf(":") + 1);
    if (last.indexOf(".") >= 0) {
        tail = fourBytes(last);
        if (!tail) {
            return null;
        }
        // Two groups in their place.
        text = text.slice(0, text.lastIndexOf(":") + 1) + "0:0";
    }
    var halves = text.split("::");
    if (halves.length > 2) {
        return null;
    }
    var left = groups(halves[0]), right = halves.length === 2 ? groups(halves[1]) : [];
    if (!left || !right) {
        return null;
    }
    var missing = 8 - left.length - right.length;
    if (halves.length === 2 ? missing < 1 : missing !== 0) {
        return null;
    }
    for (; missing > 0; missing--) {
        left.push(0);
    }
    var all = left.concat(right), bytes = [];
    for (var i = 0; i < 8; i++) {
        bytes.push(all[i] >> 8, all[i] & 255);
    }
    if (tail.length) {
        bytes = bytes.slice(0, 12).concat(tail);
    }
    // An IPv4 address in another form.
    for (var zero = 0; zero < 10; zero++) {
        if (bytes[zero] !== 0) {
            return bytes;
        }
    }
    return bytes[10] === 255 && bytes[11] === 255 ? bytes.slice(12) : bytes;
}

function fourBytes(text) {
    var parts = text.split("."), bytes = [];
    if (parts.length !== 4) {
        return null;
    }
    for (var i = 0; i < 4; i++) {
        if (!/^[0-9]{1,3}$/.test(parts[i]) || +parts[i] > 255) {
            return null;
        }
        bytes.push(+parts[i]);
    }
    return bytes;
}

function groups(text) {
    if (text === "") {
        return [];
    }
    var parts = text.split(":"), numbers = [];
    for (var i = 0; i < parts.length; i++) {
        if (!/^[0-9a-f]{1,4}$/.test(parts[i])) {
            return null;
        }
        numbers.push(parseInt(parts[i], 16));
    }
    return numbers;
}
