"""Compares the calendar with zoneinfo, python-dateutil and croniter, on random cases from a seed.

    PYTHONTZPATH= python calendar_oracles.py path/to/when [seed] [cases]

Local times are mapped by zoneinfo, whose `fold` says the same as the four disambiguations. Slots are enumerated day by
day. Recurrences are dateutil's, in local time, each mapped by zoneinfo. Cron is croniter's: once in local time, mapped by
zoneinfo by the rule in our documentation, and once by its own treatment of zones.

Where an oracle differs for a reason, the reason is a class below: each case of it is checked in another way, and
counted. Any other difference is printed, and the exit code is 1.

Years 1970 to 2099: there the tables of chrono-tz end, and a zone has no summer time any more.
"""

import bisect
import collections
import datetime as dt
import functools
import itertools
import random
import signal
import subprocess
import sys
import time
import warnings
import zoneinfo

from croniter import CroniterBadDateError, croniter
from dateutil import rrule

warnings.simplefilter("ignore")

DAY = 86_400
EPOCH = dt.datetime(1970, 1, 1)
# Occurrences of one rule that are looked at.
MOST = 500
# dateutil looks for occurrences up to here; by default to the year 9999, which takes it minutes if there are none.
dt.MAXYEAR = 2100
END = int((dt.datetime(2099, 12, 28) - EPOCH).total_seconds())

CLASSES = {
    "BYWEEKNO without a day": "RFC 5545, 3.3.10: what the rule does not say is derived from DTSTART, so it is its weekday; "
    "dateutil takes all seven days of the week",
    "BYDAY with and without numbers": "RFC 5545, 3.3.10: BYDAY is a list of days, each with a number or without; dateutil "
    "takes only days that are in both kinds",
    "BYSETPOS in the first week": "RFC 5545, 3.3.10: the set is that of the whole interval; dateutil's first week begins "
    "with DTSTART, whatever WKST says",
    "BYWEEKNO at the turn of the year": "RFC 5545, 3.3.10: weeks are numbered as in ISO 8601; dateutil does not know negative "
    "numbers of weeks that begin in the year before, and counts the weeks of that year by this one",
    "cron in a gap": "croniter moves jobs at fixed times to the end of the gap, all to one instant; ours come later by its "
    "length (RFC 5545, 3.3.5), as all schedules here do",
    "cron every n hours in a gap": "croniter takes */n for fixed times, and moves them; ours leaves out what the clocks skip, as "
    "it does with *",
    "cron in a fold": "croniter runs jobs at fixed times in both passes; ours run once, as in cronie",
}

rng = random.Random()


def seconds(local):
    return int((local - EPOCH).total_seconds())


def local_of(secs):
    return EPOCH + dt.timedelta(seconds=secs)


@functools.lru_cache(None)
def zone(name):
    return zoneinfo.ZoneInfo(name)


def both(local, name):
    """The instants of a local time with fold 0 and 1."""
    z, secs = zone(name), seconds(local)
    return tuple(secs - int(z.utcoffset(local.replace(fold=fold)).total_seconds()) for fold in (0, 1))


def instant(local, name, how="compatible"):
    first, second = both(local, name)
    if how == "reject" and first != second:
        return None
    return {"compatible": first, "reject": first, "earlier": min(first, second), "later": max(first, second)}[how]


def offset(name, at):
    return int(local_of(at).replace(tzinfo=dt.timezone.utc).astimezone(zone(name)).utcoffset().total_seconds())


@functools.lru_cache(None)
def changes(name, year):
    """When the clocks of a zone change in a year."""
    found, step = [], 5 * DAY
    start = seconds(dt.datetime(year, 1, 1))
    for low in range(start, min(start + 366 * DAY, END), step):
        high, before = low + step, offset(name, low)
        if offset(name, high) != before:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(name, middle) == before else (low, middle)
            found.append(high)
    return found


def zones_of(when):
    """All zones, and those that both sides know."""
    names = sorted(zoneinfo.available_timezones())
    answers = ask(when, [(0, 1, f"local 2000-01-01T00:00 {name}") for name in names])
    unknown = [name for name, answer in zip(names, answers) if answer.startswith("error")]
    assert set(unknown) <= {"Factory", "localtime"}, unknown
    return [name for name in names if name not in unknown]


def somewhere(names):
    """A zone and an instant in it, near a change of its clocks more often than not."""
    name, year = rng.choice(names), rng.randint(1970, 2099)
    if rng.random() < 0.75:
        for _ in range(30):
            near = changes(name, year)
            if near:
                return name, max(0, rng.choice(near) + rng.randint(-4, 4) * rng.choice((60, 900, 3_600, 14_400)))
            name, year = rng.choice(names), rng.randint(1970, 2099)
    return name, rng.randrange(END)


def ask(when, cases):
    lines = "".join(f"{at}\t{count}\t{text}\n" for at, count, text in cases)
    out = subprocess.run([when, "--batch"], input=lines, capture_output=True, text=True, check=True).stdout
    answers = out.split("\n")[:-1]
    assert len(answers) == len(cases), (len(answers), len(cases))
    return answers


def numbers(answer):
    return [int(number) for number in answer.split()] if not answer.startswith("error") else None


class Run:
    def __init__(self, when, names, seed):
        self.when, self.names, self.seed = when, names, seed
        self.counts, self.explained = collections.Counter(), collections.Counter()
        self.wrong = []
        self.given_up = 0
        signal.signal(signal.SIGALRM, self.give_up)

    def give_up(self, *_):
        """Some rules dateutil searches for minutes."""
        raise TimeoutError

    def differs(self, kind, case, ours, theirs):
        self.wrong.append((kind, case, ours, theirs))

    # Local times

    def local(self, amount):
        asked = []
        while len(asked) < amount:
            name, at = somewhere(self.names)
            local = local_of(at + offset(name, at)) + dt.timedelta(seconds=rng.randint(-5_400, 5_400))
            if seconds(local) < DAY:
                continue
            for how in ("compatible", "earlier", "later", "reject"):
                asked.append((local, name, how))
        cases = [(0, 1, f"local {local.isoformat()} {name} {how}") for local, name, how in asked]
        for case, key, answer in zip(cases, asked, ask(self.when, cases)):
            local, name, how = key
            first, second = both(local, name)
            expected = instant(local, name, how)
            if expected is None:
                show = lambda at: local_of(at).strftime("%Y-%m-%d %H:%M:%S UTC")
                word = "skip" if first > second else "twice"
                same = word in answer and show(min(first, second)) in answer and show(max(first, second)) in answer
            else:
                same = answer == str(expected)
            self.counts["local times"] += 1
            if not same:
                self.differs("local", case[2], answer, expected)

    # Posting slots

    def slots(self, amount):
        days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        cases, expected = [], []
        while len(cases) < amount:
            name, at = somewhere(self.names)
            how = rng.choice(("compatible", "compatible", "earlier", "later", "reject"))
            weekly = {}
            for day in rng.sample(range(7), rng.randint(1, 7)):
                times = [(rng.choice((0, 1, 2, 3, rng.randrange(24))), rng.choice((0, 15, 30, 45, rng.randrange(60)))) for _ in range(rng.randint(1, 4))]
                weekly[day] = sorted(set(times))
            today = local_of(at).date()
            near = lambda: today + dt.timedelta(days=rng.randint(-3, 20))
            skipped = {near() for _ in range(rng.choice((0, 0, 1, 3)))}
            extra = {dt.datetime.combine(near(), dt.time(rng.randrange(5), rng.choice((0, 30)))) for _ in range(rng.choice((0, 0, 1, 2)))}
            if min(skipped | {local.date() for local in extra} | {today}) < dt.date(1970, 1, 6):
                continue
            parts = [f"{days[day]} {','.join(f'{h:02}:{m:02}' for h, m in times)}" for day, times in weekly.items()]
            parts += [f"skip {date}" for date in skipped] + [f"extra {local.isoformat()}" for local in extra]
            text = f"slots {name} {'; '.join(parts)}; {how}"
            instants = set()
            for date in (today + dt.timedelta(days=number) for number in range(-14, 35)):
                if date not in skipped:
                    for hour, minute in weekly.get(date.weekday(), ()):
                        instants.add(instant(dt.datetime.combine(date, dt.time(hour, minute)), name, how))
            instants |= {instant(local, name, how) for local in extra}
            instants = sorted(instants - {None})
            place = bisect.bisect_right(instants, at)
            on = instants[place:place + 4]
            back = instants[:bisect.bisect_left(instants, at)][-2:][::-1]
            cases += [(at, len(on), text), (at, -len(back), text)]
            expected += [on, back]
        for case, theirs, answer in zip(cases, expected, ask(self.when, cases)):
            self.counts["slots"] += 1
            if numbers(answer) != [at for at in theirs if at >= 0]:
                self.differs("slots", case, answer, theirs)

    # Recurrences

    def rule(self, freq, start):
        """A rule that the RFC allows: its interval, WKST, and the other parts as a dictionary of lists."""
        some = lambda values, most: sorted(rng.sample(values, rng.randint(1, min(most, len(values)))))
        signed = lambda top: [*range(-top, 0), *range(1, top + 1)]
        parts = {}
        weekno = freq == "YEARLY" and rng.random() < 0.25
        if rng.random() < 0.45:
            numbered = freq in ("YEARLY", "MONTHLY") and not weekno and rng.random() < 0.6
            top = 53 if freq == "YEARLY" else 5
            named = some(["MO", "TU", "WE", "TH", "FR", "SA", "SU"], 3)
            parts["BYDAY"] = [
                f"{rng.choice((-1, 1, 2, rng.choice(signed(top))))}{day}" if numbered and rng.random() < 0.9 else day for day in named
            ]
        if weekno:
            parts["BYWEEKNO"] = some(rng.choice((signed(53), [-53, -52, -1, 1, 52, 53])), 3)
        if rng.random() < 0.3:
            parts["BYMONTH"] = some(list(range(1, 13)), 4)
        if freq != "WEEKLY" and rng.random() < 0.25:
            parts["BYMONTHDAY"] = some(signed(31), 4)
        if freq in ("YEARLY", "HOURLY", "MINUTELY", "SECONDLY") and rng.random() < 0.15:
            parts["BYYEARDAY"] = some(signed(366), 40 if freq != "YEARLY" else 5)
        if rng.random() < 0.25:
            parts["BYHOUR"] = some(list(range(24)), 4)
        if rng.random() < 0.25:
            parts["BYMINUTE"] = some(list(range(60)), 4)
        if rng.random() < 0.1:
            parts["BYSECOND"] = some(list(range(60)), 3)
        if freq in ("DAILY", "HOURLY", "MINUTELY", "SECONDLY"):
            # One that comes on its first day, or dateutil would look for its days for long.
            first = {
                "BYDAY": ("MO", "TU", "WE", "TH", "FR", "SA", "SU")[start.weekday()],
                "BYMONTH": start.month,
                "BYMONTHDAY": start.day,
                "BYYEARDAY": start.timetuple().tm_yday,
            }
            for part in set(parts) & set(first):
                parts[part] = sorted({*parts[part], first[part]})
        elif sum(part in parts for part in ("BYMONTHDAY", "BYYEARDAY", "BYWEEKNO")) > 1 or "BYDAY" in parts and rng.random() < 0.9:
            parts.pop("BYMONTHDAY", None)
            parts.pop("BYYEARDAY", None)
        if parts and rng.random() < 0.2:
            parts["BYSETPOS"] = some(signed(4), 3)
        interval = rng.choice((1, 1, 1, 2, 3, rng.randint(2, 40)))
        wkst = rng.choice(("MO", "MO", "SU", "SA", "WE"))
        return interval, wkst, parts

    def occurrences(self, freq, interval, wkst, parts, start, until, count):
        """dateutil's local times up to `until`, and the classes of differences that were taken care of."""
        weekdays = dict(zip(("MO", "TU", "WE", "TH", "FR", "SA", "SU"), (rrule.MO, rrule.TU, rrule.WE, rrule.TH, rrule.FR, rrule.SA, rrule.SU)))
        classes, parts, begin = set(), dict(parts), start
        if "BYWEEKNO" in parts and not {"BYDAY", "BYMONTHDAY", "BYYEARDAY"} & set(parts):
            classes.add("BYWEEKNO without a day")
            parts["BYDAY"] = [list(weekdays)[start.weekday()]]
        week_no = parts.pop("BYWEEKNO", None) if self.by_hand else parts.get("BYWEEKNO")
        if freq == "WEEKLY" and "BYSETPOS" in parts:
            classes.add("BYSETPOS in the first week")
            parts.setdefault("BYDAY", [list(weekdays)[start.weekday()]])
            begin = start - dt.timedelta(days=(start.weekday() - list(weekdays).index(wkst)) % 7)
        plain = [day for day in parts.get("BYDAY", ()) if len(day) == 2]
        numbered = [day for day in parts.get("BYDAY", ()) if len(day) > 2]
        kinds = [parts.get("BYDAY")]
        if plain and numbered:
            classes.add("BYDAY with and without numbers")
            if "BYSETPOS" in parts:
                return None, classes
            kinds = [plain, numbered]
        found = set()
        for kind in kinds:
            days = kind and [weekdays[day[-2:]] if len(day) == 2 else weekdays[day[-2:]](int(day[:-2])) for day in kind]
            given = {key.lower(): values for key, values in parts.items() if key not in ("BYDAY",)}
            made = rrule.rrule(
                getattr(rrule, freq), dtstart=begin, interval=interval, wkst=weekdays[wkst], byweekday=days, until=until, **given
            )
            most = 40 * MOST if self.by_hand else MOST
            found.update(itertools.islice(made, most))
            if len(found) >= most:
                until = max(found)
        found = sorted(local for local in found if start <= local)
        if week_no and self.by_hand:
            found = [local for local in found if week(local.date(), list(weekdays).index(wkst), week_no)]
        return found[:count], classes

    by_hand = False

    def recurrences(self, amount):
        cases, expected = [], []
        # In days.
        horizons = {"SECONDLY": 0.1, "MINUTELY": 2, "HOURLY": 40, "DAILY": 400, "WEEKLY": 1_000, "MONTHLY": 3_000, "YEARLY": 7_000}
        for number in itertools.count():
            if len(cases) >= amount:
                break
            # The same, whether dateutil was given up before or not.
            rng.seed(f"{self.seed} {number}")
            freq = rng.choices(list(horizons), (1, 2, 3, 4, 4, 5, 5))[0]
            name, at = somewhere(self.names)
            horizon = int(horizons[freq] * DAY)
            begin = at + offset(name, at) - (rng.randrange(horizon) if rng.random() < 0.8 else rng.randint(0, 7_200))
            begin = begin // 900 * 900 if rng.random() < 0.9 else begin
            last = min(begin + 2 * horizon, END - 2 * DAY)
            if not DAY <= begin < END - 400 * DAY:
                continue
            start, until, count = local_of(begin), local_of(last), rng.choice((None, None, rng.randint(1, 200)))
            interval, wkst, parts = self.rule(freq, start)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            try:
                locals_, classes = self.occurrences(freq, interval, wkst, parts, start, until, count)
            except ValueError:
                # dateutil says so at once if the times of day contradict each other.
                locals_, classes = [], set()
            except IndexError:
                # It looks for the 53rd weekday beyond the year.
                continue
            except TimeoutError:
                self.given_up += 1
                continue
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if locals_ is None:
                continue
            rule = f"FREQ={freq};INTERVAL={interval};WKST={wkst}"
            rule += "".join(f";{key}={','.join(map(str, values))}" for key, values in parts.items())
            # As far as it is known for certain.
            known = last if len(locals_) < MOST else seconds(locals_[-1])
            ends = None
            if count:
                rule += f";COUNT={count}"
            elif locals_ and rng.random() < 0.3:
                ends = rng.choice(locals_)
                if rng.random() < 0.5:
                    rule += f";UNTIL={local_of(instant(ends, name)):%Y%m%dT%H%M%SZ}"
                    ends = instant(ends, name)
                    locals_ = [local for local in locals_ if instant(local, name) <= ends]
                else:
                    rule += f";UNTIL={ends:%Y%m%dT%H%M%S}"
                    locals_ = [local for local in locals_ if local <= ends]
            exdates = {local for local in locals_ if rng.random() < 0.05} if rng.random() < 0.3 else set()
            exdates = set(list(exdates)[:20])
            rdates = {local_of(begin + rng.randrange(horizon) // 900 * 900) for _ in range(rng.choice((0, 0, 0, 2)))}
            text = f"rrule DTSTART;TZID={name}:{start:%Y%m%dT%H%M%S}|RRULE:{rule}"
            for word, dates in (("EXDATE", exdates), ("RDATE", rdates)):
                if dates:
                    text += f"|{word};TZID={name}:{','.join(f'{date:%Y%m%dT%H%M%S}' for date in dates)}"
            instants = sorted({instant(local, name) for local in (set(locals_) | rdates) - exdates})
            known -= DAY if freq in ("SECONDLY", "MINUTELY") else 2 * DAY
            instants = [at for at in instants if at <= known]
            never = not locals_
            key = (freq, interval, wkst, parts, start, until, count, name, exdates, rdates, ends)
            for _ in range(5):
                # The instant itself, one beside it, or the change of the clocks.
                seek = rng.choice((at, rng.choice(instants or [at]), rng.choice(instants or [at]) - 1, -1 if begin < 3_000_000 else begin - 200_000))
                if seek > known:
                    continue
                place = bisect.bisect_right(instants, seek)
                cases.append((seek, 4, text))
                expected.append((instants[place:place + 4], known, never, classes, key))
                back = instants[:bisect.bisect_left(instants, seek)][-3:][::-1]
                cases.append((seek, -3, text))
                expected.append((back, known, never, classes, key))
        for case, (theirs, known, never, classes, key), answer in zip(cases, expected, ask(self.when, cases)):
            self.counts["recurrences"] += 1
            ours = numbers(answer)
            if ours is None:
                same = never and "never comes" in answer
            else:
                same = [at for at in ours if at <= known] == theirs
            if same:
                self.explained.update(classes)
            elif "BYWEEKNO" in key[3] and self.weeks_by_hand(case, known, key, ours):
                self.explained["BYWEEKNO at the turn of the year"] += 1
            else:
                self.differs("recurrence", case, answer, theirs)

    def weeks_by_hand(self, case, known, key, ours):
        """Whether we are right if weeks are numbered by their definition."""
        freq, interval, wkst, parts, start, until, count, name, exdates, rdates, ends = key
        if "BYSETPOS" in parts:
            # Of which set would have to be told by hand, too: only what has no positions is shown to be explained.
            return self.positions_by_hand(case, known, key, ours)
        self.by_hand = True
        locals_, _ = self.occurrences(freq, interval, wkst, parts, start, until, count)
        self.by_hand = False
        return self.same_by_hand(case, known, key, ours, locals_)

    def positions_by_hand(self, case, known, key, ours):
        freq, interval, wkst, parts, start, until, count, name, exdates, rdates, ends = key
        self.by_hand = True
        without = {part: values for part, values in parts.items() if part != "BYSETPOS"}
        first = dt.datetime.combine(dt.date(start.year, 1, 1), start.time())
        without.setdefault("BYDAY", [("MO", "TU", "WE", "TH", "FR", "SA", "SU")[start.weekday()]])
        if {"BYMONTHDAY", "BYYEARDAY"} & set(parts) and "BYDAY" not in parts:
            del without["BYDAY"]
        for part, value in (("BYHOUR", start.hour), ("BYMINUTE", start.minute), ("BYSECOND", start.second)):
            without.setdefault(part, [value])
        locals_, _ = self.occurrences(freq, interval, wkst, without, first, until, None)
        self.by_hand = False
        chosen = []
        for _, of_year in itertools.groupby(locals_, lambda local: local.year):
            of_year = list(of_year)
            places = {position - 1 if position > 0 else len(of_year) + position for position in parts["BYSETPOS"]}
            chosen += [local for place, local in enumerate(of_year) if place in places and local >= start]
        return self.same_by_hand(case, known, key, ours, chosen[:count])

    def same_by_hand(self, case, known, key, ours, locals_):
        *_, name, exdates, rdates, ends = key
        if isinstance(ends, dt.datetime):
            locals_ = [local for local in locals_ if local <= ends]
        elif ends is not None:
            locals_ = [local for local in locals_ if instant(local, name) <= ends]
        if ours is None:
            return not locals_
        seek, wanted, _ = case
        instants = sorted({instant(local, name) for local in (set(locals_) | rdates) - exdates})
        instants = [at for at in instants if at <= known]
        if wanted > 0:
            place = bisect.bisect_right(instants, seek)
            return [at for at in ours if at <= known] == instants[place:place + wanted]
        return ours == instants[:bisect.bisect_left(instants, seek)][wanted:][::-1]

    # Cron

    def cron(self, amount):
        def field(low, high, wild):
            def item():
                # croniter takes a range of one value, such as 6-6, for all values.
                a, b = sorted(rng.sample(range(low, high + 1), 2))
                return rng.choice((str(a), str(b), f"{a}-{b}", f"{a}-{b}/{rng.randint(1, 5)}"))
            if rng.random() < wild:
                return rng.choice(("*", "*", "*", f"*/{rng.randint(1, max(2, (high - low) // 2))}"))
            return ",".join(item() for _ in range(rng.randint(1, 3)))

        cases, expected = [], []
        while len(cases) < amount:
            name, at = somewhere(self.names)
            if not 10 * DAY < at < END - 800 * DAY:
                continue
            hour = rng.choice(("2", "1,2,3", "0-5", field(0, 23, 0.6)))
            text = f"{field(0, 59, 0.4)} {hour} {field(1, 31, 0.7)} {field(1, 12, 0.8)} {field(0, 6, 0.7)}"
            fields = text.split()
            at -= rng.choice((0, 1_800, 7_200, 40_000))
            fixed = not fields[1].startswith("*")
            # A `*/n` beside another day of the month or week: both have to be fulfilled, as in Vixie's cron.
            stepped = any("/" in day and day.startswith("*") for day in (fields[2], fields[4]))
            local = local_of(at + offset(name, at))
            # By how much a gap may move a time: at the date line by a day.
            year = local.year
            margin = max((abs(offset(name, one) - offset(name, one - 1)) for one in changes(name, year)), default=0) + 60
            margin = dt.timedelta(seconds=margin)
            walk, locals_ = croniter(text, local - margin, implement_cron_bug=stepped, max_years_between_matches=2), []
            try:
                # Enough after the instant that nothing later can come between.
                while sum(local < one for one in locals_[-6:]) < 6 or locals_[-6] - local <= margin or locals_[-1] - locals_[-6] <= margin and len(locals_) < 400:
                    locals_.append(walk.get_next(dt.datetime))
            except CroniterBadDateError:  # no match within two years
                continue
            instants = set()
            for one in locals_:
                first, second = both(one, name)
                if fixed:
                    instants.add(first)
                elif first <= second:
                    instants |= {first, second}
            known = min(both(locals_[-1], name)) - margin.total_seconds()
            instants = sorted(one for one in instants if one < known)
            place = bisect.bisect_right(instants, at)
            theirs = instants[place:place + 4]
            if not theirs:
                continue
            aware = local_of(at).replace(tzinfo=dt.timezone.utc).astimezone(zone(name))
            direct = croniter(text, aware, implement_cron_bug=stepped)
            direct = [int(direct.get_next(float)) for _ in theirs]
            cases.append((at, len(theirs), f"cron {name} {text}"))
            expected.append((theirs, direct, fixed, name))
        for case, (theirs, direct, fixed, name), answer in zip(cases, expected, ask(self.when, cases)):
            self.counts["cron"] += 1
            ours = numbers(answer)
            if ours != theirs:
                self.differs("cron", case, answer, theirs)
            elif ours != direct:
                low, high = case[0] - 2 * DAY, max(ours[-1], direct[-1]) + 2 * DAY
                year, last = local_of(low).year, local_of(high).year
                near = [at for y in range(year, min(last, 2099) + 1) for at in changes(name, y) if low < at < high]
                kinds = {"gap" if offset(name, at) > offset(name, at - 1) else "fold" for at in near}
                if "gap" in kinds and case[2].split()[3].startswith("*/"):
                    self.explained["cron every n hours in a gap"] += 1
                elif fixed and kinds:
                    first = next(a < b for a, b in zip(ours, direct) if a != b)
                    self.explained["cron in a " + (kinds.pop() if len(kinds) == 1 else "fold" if not first else "gap")] += 1
                else:
                    self.differs("croniter in its zone", case, answer, direct)


def week(date, first, wanted):
    """Whether the week of a date has one of these numbers: by the weeks of the year that its fourth day is in."""
    fourth = date - dt.timedelta(days=(date.weekday() - first) % 7) + dt.timedelta(days=3)
    number = (fourth.timetuple().tm_yday - 1) // 7 + 1
    weeks = sum(1 for day in range(366) if (d := dt.date(fourth.year, 1, 1) + dt.timedelta(days=day)).year == fourth.year and d.weekday() == fourth.weekday())
    return number in wanted or number - weeks - 1 in wanted


def main():
    when, seed, cases = sys.argv[1], int((sys.argv[2:3] or ["1"])[0]), int((sys.argv[3:4] or ["100000"])[0])
    assert not zoneinfo.TZPATH, "PYTHONTZPATH must be empty, so that the zones are those of the package tzdata"
    rng.seed(seed)
    run = Run(when, zones_of(when), seed)
    for kind, share in ((run.local, 0.5), (run.slots, 0.25), (run.recurrences, 0.2), (run.cron, 0.05)):
        begun = time.time()
        kind(int(cases * share) + 1)
        print(f"{kind.__name__:12} {time.time() - begun:5.1f} s", flush=True)
    print(f"seed {seed}, {len(run.names)} zones, {sum(run.counts.values())} cases:", dict(run.counts))
    for name, count in run.explained.items():
        print(f"{count:6} {name}: {CLASSES[name]}")
    for kind, case, ours, theirs in run.wrong[:20]:
        print(f"\n{kind} differs: {case}\n  ours   {ours}\n  theirs {theirs}")
    print(f"{run.given_up} rules took dateutil longer than half a second and were left out")
    print(f"{len(run.wrong)} differences that nothing explains")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
