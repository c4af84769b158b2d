// What each client program tells the tests: a line of JSON per case.

export async function tell(cases, say = (line) => console.log(JSON.stringify(line))) {
  for (const [name, run] of Object.entries(cases)) {
    try {
      say({ case: name, ...(await run()) });
    } catch (error) {
      const status = error.status ?? error.statusCode ?? null;
      say({ case: name, error: { status, message: error.message, request_id: error.requestID ?? null } });
    }
  }
}
