/*
 * Who holds a virtual IP: the election of docs/decisions/0009 and 0010, for the model checker spin. README.md says what
 * is modelled, what is not, and what came out; check.sh runs it.
 *
 * One address, N nodes, one record in etcd. Between any two steps of a node anything may happen elsewhere, and take any
 * time. So a paused process, a late watch and a cut network have no steps of their own: they are the runs in which a
 * node does nothing for a while. Only the kernel waits for nobody: the gate shuts when its time is over.
 *
 * Time is in ticks of true time. A node's clock may be slow (its right lasts up to SLOW ticks longer than F, the removal
 * included) or fast (it claims up to FAST ticks before O). Nobody compares clocks.
 *
 * Revisions are no numbers here. A node writes with the present revision as guard; any other would be refused. So every
 * commit voids all other writes under way, and makes every view old.
 *
 * Options (-D): RELEASES, HAND_OVERS, WIPES, EPOCHS, LIVENESS; and the names of what is broken on purpose, in
 * README.md.
 */

#ifndef N
#define N 2          /* nodes */
#endif
#ifndef SLOTS
#define SLOTS 2      /* writes of one node under way at once: the last, and one given up that may still arrive */
#endif
#ifndef F
#define F 2          /* a right lasts F from the sending of the write that gives it */
#endif
#ifndef SLOW
#define SLOW 1
#endif
#ifndef FAST
#define FAST 1
#endif
#ifndef O
#define O (F + SLOW + FAST)   /* a challenger waits O from seeing the present revision */
#endif

#define LONGEST (F + SLOW)    /* ticks for which a right may last; as an age: too old to give any */
#define SOONEST (O - FAST)    /* ticks after which a challenger may claim */
#define LATEST  (O + SLOW)    /* ticks after which every challenger does */
#define NOBODY  N

/* What a write says. */
#define NOTHING 0    /* there is none */
#define MINE    1    /* its sender is the holder: a claim, a renewal, the withdrawal of an offer */
#define OFFER   2    /* the same, with a new offer */
#define GIVE    3    /* the target is the holder */
#define FREE    4    /* nobody is */

typedef Write {
  byte what;
  byte age;          /* ticks since it was sent; LONGEST if it gives no right */
  byte to;           /* whom it offers or gives the address to */
  bool alive;        /* whether the process that it makes the holder still runs */
  bool claim         /* whether it begins an epoch */
}
typedef Writes { Write at[SLOTS] }

/* --- etcd ------------------------------------------------------------------------------------------------------- */

byte holder = NOBODY;
bool alive;          /* whether the record names the process that runs on the holder's node, not an earlier one */
byte to = NOBODY;    /* whom the record offers the address to */
#ifdef WIPES
bool absent = true;  /* there is no record: a write is guarded by that */
#endif

Writes writes[N];    /* under way to etcd */

/* Each node's answer to the present offer. It names the offer and the process. */
#define NO     0
#define BY_IT  1     /* by the process that runs */
#define BEFORE 2     /* by an earlier process of that node */
byte accepted[N];
byte accepting[N];   /* the same, still under way */

/* --- nodes ------------------------------------------------------------------------------------------------------- */

byte gate[N];        /* ticks until the kernel shuts the gate; 0: shut */
bool seen[N];        /* it has seen the present revision */
byte waited[N];      /* for how long */
bool watched[N];     /* its watch tells it of the present revision as a change, not as something that was there */
byte told[N];        /* age of its last write that was committed, if it does not know that yet; else LONGEST */
bool offered[N];     /* it has read an offer to it, and not acted yet */
bool answered[N];    /* it has accepted the present offer */
byte answer[N];      /* age of that */
bool given[N];       /* the record has given it the address, and it has not acted yet */
#ifdef CAN_TAKE_BACK
byte left[N];        /* what was left of its right when it let go */
#endif
#ifdef STOPPED_TWICE
byte computed[N];    /* what it is about to tell the kernel */
#endif

#define may_send(i)  (writes[i].at[SLOTS - 1].what == NOTHING)
#define is_holder(i) (holder == i && alive)

/* --- what is checked ----------------------------------------------------------------------------------------------- */

/* With EPOCHS: how many epochs ago the one began under which a gate was last opened, and those under which nodes may
 * open theirs. */
#define AGES 3
byte opened = AGES;
byte told_epoch[N], given_epoch[N];

#ifdef LIVENESS
bool calm;           /* from now on nothing goes wrong any more, */
bool gone[N];        /* but these nodes are dead or cut off for good */
byte dark;           /* ticks since then in which nobody had the address */
byte steps;          /* since the last tick */
#define well(i) (!calm || !gone[i])
#define faulty  (!calm)
#define idle(i) (writes[i].at[0].what == NOTHING && told[i] >= LONGEST)
#define count   if :: calm -> steps++; assert(steps <= STEPS) :: else fi
#else
#define well(i) true
#define faulty  true
#define idle(i) true
#define count   skip
#endif

/* Opens i's gate, or leaves it open, for what is left of a right that began so many ticks ago. */
inline open(i, began, slow) {
  if
  :: F + slow > began + gate[i] -> gate[i] = F + slow - began
  :: else
  fi;
  if
  :: gate[i] > 0 ->
    printf("n%d: gate open for %d\n", i, gate[i]);
#ifndef GATES_UNCHECKED
    /* Never two. */
    for (k : 0 .. N - 1) {
      assert(k == i || gate[k] == 0)
    }
#endif
  :: else
  fi;
  k = 0
}

/* Epochs never go back, for whoever hears of them. */
inline open_under(i, epoch_age) {
#ifdef EPOCHS
  if
  :: gate[i] > 0 ->
    assert(epoch_age <= opened);
    opened = epoch_age
  :: else
  fi;
  epoch_age = 0
#else
  skip
#endif
}

inline next_epoch() {
#ifdef EPOCHS
  opened = (opened < AGES -> opened + 1 : AGES);
  for (k : 0 .. N - 1) {
    told_epoch[k] = (told[k] < LONGEST && told_epoch[k] < AGES -> told_epoch[k] + 1 : told_epoch[k]);
    given_epoch[k] = (given[k] && given_epoch[k] < AGES -> given_epoch[k] + 1 : given_epoch[k])
  }
  k = 0
#else
  skip
#endif
}

/* Forgets what cannot matter any more, so that states that differ in nothing else are one. */
inline tidy() {
  for (k : 0 .. N - 1) {
#ifndef OFFERS_WITHOUT_NUMBER
    if
    :: to != k -> accepted[k] = NO; accepting[k] = NO
    :: else
    fi;
    if
    :: to != k && !given[k] -> answer[k] = LONGEST
    :: else
    fi;
#endif
#ifndef GIFTS_TO_A_NODE
    if
    :: answer[k] >= LONGEST -> given[k] = false
    :: else
    fi;
#endif
#ifdef EPOCHS
    told_epoch[k] = (told[k] < LONGEST -> told_epoch[k] : 0);
    given_epoch[k] = (given[k] -> given_epoch[k] : 0)
#endif
  }
  k = 0
}

/* --- writes -------------------------------------------------------------------------------------------------------- */

inline clear(w) {
  w.what = NOTHING; w.age = 0; w.to = 0; w.alive = false; w.claim = false
}

inline send(i, what_, to_, claim_, alive_) {
  j = (writes[i].at[0].what == NOTHING -> 0 : SLOTS - 1);
  writes[i].at[j].what = what_;
  writes[i].at[j].to = to_;
  writes[i].at[j].claim = claim_;
  writes[i].at[j].alive = alive_;
  writes[i].at[j].age = (what_ == MINE || what_ == OFFER -> 0 : LONGEST);
  j = 0
}

inline lose(i, s) {
  printf("a write of n%d is lost\n", i);
  clear(writes[i].at[s]);
#if SLOTS == 2
  if
  :: s == 0 && writes[i].at[1].what != NOTHING ->
    writes[i].at[0].what = writes[i].at[1].what;
    writes[i].at[0].age = writes[i].at[1].age;
    writes[i].at[0].to = writes[i].at[1].to;
    writes[i].at[0].alive = writes[i].at[1].alive;
    writes[i].at[0].claim = writes[i].at[1].claim;
    clear(writes[i].at[1])
  :: else
  fi
#endif
}

inline void_writes() {
  for (k : 0 .. N - 1) {
    for (j : 0 .. SLOTS - 1) {
#ifdef CLAIMS_WITHOUT_GUARD
      if
      :: !writes[k].at[j].claim -> clear(writes[k].at[j])
      :: else
      fi
#else
      clear(writes[k].at[j])
#endif
    }
  }
  k = 0; j = 0
}

inline new_revision(as_a_change) {
  for (k : 0 .. N - 1) {
    seen[k] = false;
    waited[k] = 0;
    watched[k] = as_a_change
  }
  k = 0;
  tidy()
}

/* etcd makes a write of i. */
inline commit(i, s) {
  what = writes[i].at[s].what;
  if
  :: what == GIVE || writes[i].at[s].claim -> next_epoch()
  :: else
  fi;
  if
  :: what == MINE || what == OFFER ->
    printf("etcd: n%d, offered to n%d (n%d is nobody)\n", i, writes[i].at[s].to, NOBODY);
    holder = i;
    alive = writes[i].at[s].alive;
    if
    :: alive ->
      told[i] = writes[i].at[s].age;
#ifdef EPOCHS
      told_epoch[i] = 0
#endif
    :: else
    fi;
    to = writes[i].at[s].to
  :: what == GIVE ->
    printf("etcd: n%d, given by n%d\n", writes[i].at[s].to, i);
    holder = writes[i].at[s].to;
    alive = writes[i].at[s].alive;
    to = NOBODY;
#ifdef GIFTS_TO_A_NODE
    given[holder] = true;
#else
    given[holder] = alive;
#endif
#ifdef EPOCHS
    given_epoch[holder] = 0
#endif
  :: what == FREE ->
    printf("etcd: nobody, let go by n%d\n", i);
    holder = NOBODY;
    alive = false;
    to = NOBODY
  fi;
#ifdef OFFERS_WITHOUT_NUMBER
  /* An answer names the epoch: it ends with that. */
  if
  :: writes[i].at[s].claim || what == GIVE || what == FREE ->
    for (k : 0 .. N - 1) {
      accepted[k] = NO; accepting[k] = NO
    }
  :: else
  fi;
#endif
  if
  :: what == OFFER ->
    for (k : 0 .. N - 1) {
#ifndef OFFERS_WITHOUT_NUMBER
      accepted[k] = NO; accepting[k] = NO;
#endif
      offered[k] = false; answered[k] = false
    }
  :: else
  fi;
  what = 0;
  clear(writes[i].at[s]);
  void_writes();
#ifdef WIPES
  absent = false;
#endif
#ifdef NO_WAIT_AT_START
  new_revision(true)
#else
  new_revision(holder == NOBODY)    /* where it makes a difference */
#endif
}

#ifdef WIPES
/* etcd comes back without the record, or with an old one that names nobody. Whoever watches is told of a gap. */
inline wipe() {
  printf("etcd is wiped\n");
  if
  :: !absent -> void_writes()
  :: else
  fi;
  holder = NOBODY; alive = false; to = NOBODY; absent = true;
  new_revision(false)
}
#endif

/* --- a node -------------------------------------------------------------------------------------------------------- */

/* It learns that its write was made: by the answer, or by finding it in the record. */
inline learn(i, slow) {
#if defined(RIGHT_FROM_ANSWER)
  open(i, 0, slow);
#elif defined(STOPPED_TWICE)
  computed[i] = F - told[i];
#else
  open(i, told[i], slow);
#endif
  open_under(i, told_epoch[i]);
  told[i] = LONGEST
}

/* It sees that it was given the address. */
inline take(i, slow) {
#ifdef RIGHT_FROM_SEEING
  open(i, 0, slow);
#else
  open(i, answer[i], slow);
#endif
  open_under(i, given_epoch[i]);
  given[i] = false;
  tidy()
}
#ifdef GIFTS_TO_A_NODE
#define has_gift(i) (given[i] && answered[i])
#else
#define has_gift(i) given[i]
#endif

/* The address is taken away before anything is written, and nothing from before gives it back. */
inline let_go(i) {
#ifdef CAN_TAKE_BACK
  left[i] = gate[i];
#endif
#ifndef GATE_SHUT_LATER
  gate[i] = 0;
#endif
#ifdef LATE_ANSWERS_COUNT
  skip
#else
  told[i] = LONGEST;
  given[i] = false;
  tidy()
#endif
}

/* Accepts an offer. However often it says so, the first time counts. */
inline accept(i) {
  offered[i] = false;
  accepting[i] = BY_IT;
#ifdef RIGHT_FROM_LAST_ANSWER
  answer[i] = 0;
#else
  answer[i] = (answered[i] -> answer[i] : 0);
#endif
  answered[i] = true;
  tidy()
}

/* A process ends and the next one starts. It shuts the gate and knows nothing. What was sent is still under way. */
inline restart(i) {
  gate[i] = 0;
  seen[i] = false; waited[i] = 0; watched[i] = false;
  told[i] = LONGEST;
  offered[i] = false; answered[i] = false; answer[i] = LONGEST; given[i] = false;
#ifdef STOPPED_TWICE
  computed[i] = 0;
#endif
#ifdef CAN_TAKE_BACK
  left[i] = 0;
#endif
  if
  :: holder == i -> alive = false
  :: else
  fi;
  for (k : 0 .. N - 1) {
    for (j : 0 .. SLOTS - 1) {
      if
      :: writes[k].at[j].what == GIVE && writes[k].at[j].to == i -> writes[k].at[j].alive = false
      :: k == i && (writes[k].at[j].what == MINE || writes[k].at[j].what == OFFER) ->
        writes[k].at[j].alive = false; writes[k].at[j].age = LONGEST
      :: else
      fi
    }
  }
  k = 0; j = 0;
  accepted[i] = (accepted[i] == BY_IT -> BEFORE : accepted[i]);
  accepting[i] = (accepting[i] == BY_IT -> BEFORE : accepting[i]);
  tidy()
}

#define holds_record(i)  (well(i) && seen[i] && is_holder(i) && may_send(i) && (faulty || idle(i)))

proctype Node(byte me) {
  byte k, j;
  do
  :: d_step { well(me) && !seen[me] -> printf("n%d sees the record\n", me);
       seen[me] = true; count }

  :: d_step { well(me) && told[me] < LONGEST -> printf("n%d knows of its write\n", me);
       learn(me, 0); count }
  :: d_step { faulty && told[me] < LONGEST -> printf("n%d, with a slow clock, knows of its write\n", me);
       learn(me, SLOW) }

  /* The holder renews. */
  :: d_step { holds_record(me) && (faulty || gate[me] < F) -> printf("n%d renews\n", me);
       send(me, MINE, to, false, true); count }

  /* A challenger claims what has not changed for long enough, or what it saw become free. */
  :: d_step { well(me) && seen[me] && !is_holder(me) && may_send(me) && (faulty || idle(me)) &&
#ifdef HOLDERS_NODE_NEVER_CLAIMS
       holder != me &&
#endif
       (waited[me] >= (faulty -> SOONEST : LATEST) ||
#ifdef NO_WAIT_AT_START
        !watched[me] ||
#endif
#ifdef FREE_IS_FREE
        holder == NOBODY ||
#endif
        holder == NOBODY && watched[me]) -> printf("n%d claims\n", me);
       send(me, MINE, NOBODY, true, true); count }

#ifdef WIPES
  /* The record is gone, and it has the address: it writes the record again. */
  :: d_step { seen[me] && absent && gate[me] > 0 && may_send(me) -> printf("n%d writes the record again\n", me);
       send(me, MINE, NOBODY, true, true) }
#endif

#ifdef RELEASES
  :: d_step { faulty && holds_record(me) -> printf("n%d lets go\n", me);
       let_go(me);
       send(me, FREE, NOBODY, false, false) }
#endif

#ifdef HAND_OVERS
  :: d_step { faulty && holds_record(me) && to == NOBODY -> printf("n%d offers\n", me);
       send(me, OFFER, (me + 1) % N, false, true) }
#if N > 2
  :: d_step { faulty && holds_record(me) && to == NOBODY -> printf("n%d offers\n", me);
       send(me, OFFER, (me + 2) % N, false, true) }
#endif
  :: d_step { holds_record(me) && to != NOBODY -> printf("n%d takes its offer back\n", me);
       send(me, MINE, NOBODY, false, true); count }
  :: d_step { holds_record(me) && to != NOBODY && accepted[to] != NO -> printf("n%d lets go and gives to n%d\n", me, to);
       let_go(me);
       send(me, GIVE, to, false, accepted[to] == BY_IT); count }

  :: d_step { well(me) && to == me && !offered[me] && (faulty || !answered[me]) -> printf("n%d reads an offer\n", me);
       offered[me] = true; count }
  :: d_step { well(me) && offered[me] -> printf("n%d accepts\n", me);
       accept(me); count }
  :: d_step { well(me) && has_gift(me) -> printf("n%d sees the gift\n", me);
       take(me, 0); count }
  :: d_step { faulty && has_gift(me) -> printf("n%d, with a slow clock, sees the gift\n", me);
       take(me, SLOW) }
#endif

  :: d_step { faulty -> printf("n%d restarts\n", me);
       restart(me) }

#ifdef STOPPED_TWICE
  :: d_step { computed[me] > 0 -> printf("n%d tells the kernel\n", me);
       open(me, F - computed[me], 0); computed[me] = 0 }
#endif
#ifdef CAN_TAKE_BACK
  :: d_step { left[me] > 0 -> printf("n%d takes back what it gave\n", me);
       open(me, F - left[me], 0); left[me] = 0 }
#endif
#ifdef WRITES_ALIKE
  /* It sends another, which is refused, finds itself in the record, and takes that for the one it has just sent. */
  :: d_step { told[me] < LONGEST -> printf("n%d sends another, and mistakes the first for it\n", me);
       told[me] = 0 }
#endif
#ifdef NO_KERNEL
  :: d_step { gate[me] > 0 -> printf("n%d shuts the gate\n", me);
       gate[me] = 0 }
#endif
  od
}

/* What n's messages meet on their way. */
proctype Etcd(byte n) {
  byte k, j, what;
  do
  :: d_step { writes[n].at[0].what != NOTHING -> commit(n, 0); count }
  :: d_step { writes[n].at[0].what != NOTHING && (faulty || !well(n)) -> lose(n, 0); count }
#if SLOTS == 2
  :: d_step { writes[n].at[1].what != NOTHING -> commit(n, 1); count }
  :: d_step { writes[n].at[1].what != NOTHING && (faulty || !well(n)) -> lose(n, 1); count }
#endif
#ifdef HAND_OVERS
  :: d_step { accepting[n] != NO -> printf("etcd: n%d's answer\n", n);
       accepted[n] = accepting[n]; accepting[n] = NO; count }
  :: d_step { accepting[n] != NO && (faulty || !well(n)) -> printf("n%d's answer is lost\n", n);
       accepting[n] = NO; count }
#endif
#ifdef WIPES
  :: d_step { n == 0 -> wipe() }
#endif
  od
}

/* --- time ---------------------------------------------------------------------------------------------------------- */

#define less(x)  x = (x > 0 -> x - 1 : 0)
#define older(x) x = (x < LONGEST -> x + 1 : LONGEST)

inline pass() {
  printf("-- tick\n");
  for (k : 0 .. N - 1) {
#ifndef NO_KERNEL
    less(gate[k]);
#endif
#ifdef CAN_TAKE_BACK
    less(left[k]);
#endif
    if
    :: seen[k] && !is_holder(k) && waited[k] < (faulty -> SOONEST : LATEST) -> waited[k]++
    :: else
    fi;
    older(told[k]);
    older(answer[k]);
    for (j : 0 .. SLOTS - 1) {
      if
      :: writes[k].at[j].what != NOTHING -> older(writes[k].at[j].age)
      :: else
      fi
    }
  }
  k = 0; j = 0;
  tidy()
}

#if N == 2
#define is_dark (gate[0] == 0 && gate[1] == 0)
#else
#define is_dark (gate[0] == 0 && gate[1] == 0 && gate[2] == 0)
#endif

proctype Clock() {
  byte k, j;
  do
  :: d_step { faulty -> pass() }
#ifdef LIVENESS
  /* Where nothing goes wrong, time passes only when nobody has anything to do. */
  :: atomic { timeout -> d_step {
       pass();
       steps = 0;
       if
       :: is_dark -> dark++
       :: else
       fi;
       assert(dark <= DARKEST) } }
#endif
  od
}

#ifdef LIVENESS
/* At some moment things become calm. At least one node is there. */
proctype Calm() {
  byte i, one;
  atomic {
    select (one : 0 .. N - 1);
    for (i : 0 .. N - 1) {
      if
      :: i != one -> gone[i] = true; printf("n%d is gone for good\n", i)
      :: true
      fi
    }
    i = 0; one = 0;
    printf("it is calm\n");
    calm = true
  }
}
#endif

init {
  byte i;
  atomic {
    for (i : 0 .. N - 1) {
      told[i] = LONGEST;
      answer[i] = LONGEST;
      run Node(i);
      run Etcd(i)
    }
    i = 0;
    run Clock();
#ifdef LIVENESS
    run Calm()
#endif
  }
}
