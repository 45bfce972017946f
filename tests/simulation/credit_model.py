"""Credits as nobody would build them: every millionth is a token of its own, and time is looked at token by token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

NEVER = datetime.max.replace(tzinfo=UTC)

Kind = Literal["grant", "set", "adjust", "remove", "charge", "hold", "settle", "release", "sweep", "overdraft"]


@dataclass(frozen=True)
class Operation:
    """Something that is asked of a ledger. `name` is its key, or the name of its hold."""

    kind: Kind
    name: str
    amount: int = 0
    lives_for: timedelta | None = None
    overrun: Literal["held", "balance"] = "balance"


@dataclass(frozen=True)
class Outcome:
    """What it came to: a code where it was refused."""

    refused: str | None
    moved: int = 0
    refunded: int = 0
    shortfall: int = 0
    balance: int = 0


@dataclass
class Token:
    expires_at: datetime
    age: int
    place: str = "available"


@dataclass(frozen=True)
class Sight:
    """What can be seen of an account: of its lots, when each expires and what is available of it, in the order of paying."""

    balance: int
    held: int
    lots: tuple[tuple[datetime, int], ...]


class NaiveCredits:
    """One account."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.owed = 0
        self.overdraft = 0
        self.ages = 0
        self.on_debt: dict[str, int] = {}
        self.holds: dict[str, str] = {}
        self.answers: dict[str, tuple[int, Outcome]] = {}

    def sight(self, now: datetime) -> Sight:
        live = [token for token in self.tokens if token.place == "available" and token.expires_at > now]
        lots = Counter((token.expires_at, token.age) for token in live)
        held = sum(token.place.startswith("held ") for token in self.tokens) + sum(self.on_debt.values())
        shown = tuple((expires_at, count) for (expires_at, _), count in sorted(lots.items()))
        return Sight(len(live) - self.owed, held, shown)

    def do(self, asked: Operation, now: datetime) -> Outcome:
        for token in self.tokens:
            if token.place == "available" and token.expires_at <= now:
                token.place = "expired"
        if asked.kind in ("settle", "release", "sweep"):
            return self.end(asked, now)
        refused = self.refusal(asked)
        if refused is not None:
            return Outcome(refused)
        match asked.kind:
            case "grant":
                self.make(asked.amount, asked.lives_for, now)
            case "set":
                for token in self.available():
                    token.place = "removed"
                self.owed = 0
                self.make(asked.amount, asked.lives_for, now)
            case "adjust" if asked.amount >= 0:
                self.make(asked.amount, asked.lives_for, now)
            case "adjust" | "remove":
                for token in self.available()[: abs(asked.amount)]:
                    token.place = "removed"
            case "charge":
                self.take(asked.amount, "spent")
            case "hold":
                self.holds[asked.name] = "open"
                self.on_debt[asked.name] = self.take(asked.amount, f"held {asked.name}")
            case "overdraft":
                self.overdraft = asked.amount
                return Outcome(None, 0, balance=len(self.available()) - self.owed)
        return Outcome(None, abs(asked.amount), balance=len(self.available()) - self.owed)

    def refusal(self, asked: Operation) -> str | None:
        has = len(self.available())
        if asked.kind == "remove" or (asked.kind == "adjust" and asked.amount < 0):
            return "insufficient_credits" if abs(asked.amount) > has else None
        if asked.kind in ("charge", "hold"):
            return "insufficient_credits" if asked.amount > has - self.owed + self.overdraft else None
        if asked.kind == "overdraft":
            return "credits_refused" if asked.amount < self.owed else None
        return None

    def available(self) -> list[Token]:
        tokens = [token for token in self.tokens if token.place == "available"]
        return sorted(tokens, key=lambda token: (token.expires_at, token.age))

    def make(self, amount: int, lives_for: timedelta | None, now: datetime) -> None:
        self.ages += 1
        for _ in range(amount):
            self.tokens.append(Token(NEVER if lives_for is None else now + lives_for, self.ages))
            if self.owed:
                self.owed -= 1
                self.tokens[-1].place = "paid what was owed"

    def take(self, amount: int, place: str) -> int:
        """Returns how much of it is owed."""
        taken = self.available()[:amount]
        for token in taken:
            token.place = place
        self.owed += amount - len(taken)
        return amount - len(taken)

    def end(self, asked: Operation, now: datetime) -> Outcome:
        state = self.holds.get(asked.name)
        if state is None:
            return Outcome("unknown_hold")
        if state == "settled":
            amount, answer = self.answers[f"settle {asked.name}"]
            return answer if (asked.kind, asked.amount) == ("settle", amount) else Outcome("already_settled")
        if state == "released" and asked.kind == "settle":
            return Outcome("already_released")
        if state in ("released", "expired") and asked.kind != "settle":
            return self.answers[f"release {asked.name}"][1]
        held = sorted(
            (token for token in self.tokens if token.place == f"held {asked.name}"),
            key=lambda token: (token.expires_at, token.age),
        )
        on_debt = self.on_debt.pop(asked.name, 0)
        spent = spent_debt = refunded = 0
        for token in held:
            if asked.kind == "settle" and spent < asked.amount:
                token.place = "spent"
                spent += 1
            elif token.expires_at <= now:
                token.place = "expired"
            else:
                refunded += 1
                token.place = "paid what was owed" if self.owed else "available"
                self.owed -= bool(self.owed)
        self.ages += 1
        for _ in range(on_debt):
            if asked.kind == "settle" and spent + spent_debt < asked.amount:
                spent_debt += 1
            else:
                refunded += 1
                if not self.owed:
                    self.tokens.append(Token(NEVER, self.ages))
                self.owed -= bool(self.owed)
        charged = spent + spent_debt
        if asked.kind == "settle" and charged < asked.amount and (asked.overrun == "balance" or state == "expired"):
            extra = min(asked.amount - charged, max(len(self.available()) - self.owed + self.overdraft, 0))
            self.take(extra, "spent")
            charged += extra
        moved = charged if asked.kind == "settle" else len(held) + on_debt
        shortfall = asked.amount - charged if asked.kind == "settle" else 0
        outcome = Outcome(None, moved, refunded, shortfall, len(self.available()) - self.owed)
        self.holds[asked.name] = {"settle": "settled", "release": "released", "sweep": "expired"}[asked.kind]
        self.answers[f"{'settle' if asked.kind == 'settle' else 'release'} {asked.name}"] = (asked.amount, outcome)
        return outcome
